"""Imports real files of each format, written in the tests with the format's own writer wherever it installs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Store]:
    """``imported(source, **settings of SourceReference)`` -> the store."""

    def run(source: Path | str, dest: str = "store", bad: Any = "fail", processes: int = 1, **settings: Any) -> Store:
        reference = SourceReference(str(source), **settings)
        return Store(import_source(reference, tmp_path / dest, bad=bad, processes=processes, progress=False).store)

    return run


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., Path]:
    """``described(source, **options)`` -> a file with a `DatasetSpec` of five pairs."""

    def write(source: Path, **options: Any) -> Path:
        options = {"pairs": 5, "size": (192, 192)} | options
        (tmp_path / "mine.py").write_text(
            "from gato.data_pipelines.dataset import DatasetSpec\n"
            f"MINE = DatasetSpec(source={str(source)!r}, options={options!r})\n"
        )
        return tmp_path / "mine.py"

    return write


sys.path.insert(0, str(Path(__file__).parent))  # `tfds_files`: importlib mode does not put the folder on the path
