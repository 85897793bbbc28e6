"""The journal: stages are timed over attempts, finished once, and never mixed with another run's."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gato.launch.journal import FILE, Journal, JournalError


def test_a_finished_stage_stays_finished(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"seed": 0})
    with journal.stage("collect"):
        time.sleep(0.02)
    again = Journal(tmp_path, {"seed": 0})
    assert again.is_finished("collect")
    assert not again.is_finished("train")
    assert again.seconds["collect"] >= 0.02


def test_an_interrupted_stage_is_timed_but_not_finished(tmp_path: Path) -> None:
    for attempt in (1, 2):
        journal = Journal(tmp_path, {})
        with pytest.raises(KeyboardInterrupt), journal.stage("train"):
            time.sleep(0.03)
            raise KeyboardInterrupt
        assert not Journal(tmp_path, {}).is_finished("train")
        assert journal.seconds["train"] >= 0.03 * attempt - 0.01


def test_notes_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {})
    journal.notes["steps"] = 700
    journal.write()
    assert Journal(tmp_path, {}).notes == {"steps": 700}


def test_another_runs_directory_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, {"seed": 0, "budget": 60}).write()
    with pytest.raises(JournalError, match="seed 0, this one has 1; give another --out"):
        Journal(tmp_path, {"seed": 1, "budget": 60})


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_journal_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(JournalError, match=r"timings\.json: cannot be read"):
        Journal(tmp_path, {})


def test_what_the_report_reads(tmp_path: Path) -> None:
    with Journal(tmp_path, {}).stage("collect"):
        pass
    content = json.loads((tmp_path / FILE).read_text())
    assert set(content["stages"]) == {"collect"}
    assert content["machine"]["cores"] >= 1


def test_a_disk_that_takes_nothing_does_not_hide_what_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "run").touch()  # where the directory should be
    journal = Journal(tmp_path / "run", {})
    with pytest.raises(ValueError, match="3 MB are needed"), journal.stage("collect"):
        raise ValueError("3 MB are needed")
