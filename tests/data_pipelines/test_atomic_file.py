"""A file is replaced whole or not at all, by any number of writers."""

from __future__ import annotations

import concurrent.futures
import os

import pytest

from gato.data_pipelines.atomic_file import replace_file


def test_many_writers_leave_one_whole_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    contents = [str(writer) * 200_000 for writer in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: replace_file(path, content), contents))
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["results.json"]
    replace_file(path, b"bytes too")
    assert path.read_bytes() == b"bytes too"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "results.json"
    replace_file(path, "before")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "\ud800")  # no character
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["results.json"]
