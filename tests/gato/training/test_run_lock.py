"""Two runs in one directory: the second one waits, says for whom and changes nothing; a dead one is in nobody's way."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from processes import start_training

from gato.training import run_lock
from gato.training.checkpoint import saved_steps
from gato.training.config import TrainConfig
from gato.training.run_lock import LockError, only_one
from gato.training.trainer import train


def test_a_second_training_is_kept_out_until_the_first_is_killed(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "WAIT", 0.0)
    config, run = train_config.replace(steps=100_000, checkpoint_every=1), tmp_path / "run"
    with start_training(config, run, tmp_path / "logs") as first:
        assert first.until(lambda: len(saved_steps(run)) > 0), first.everything()
        with pytest.raises(LockError, match=r"run: another training is under way there \(process \d+ on .*directory$"):
            train(config, run)
        reached = saved_steps(run)[-1]
        assert first.until(lambda: saved_steps(run)[-1] > reached + 2), first.everything()  # nothing disturbed it
        first.kill()
    with only_one(run, "training"):
        pass


def test_who_waits_says_so_and_goes_on_when_the_other_one_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entered, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with only_one(tmp_path, "training"):
            entered.set()
            leave.wait(60)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(60)
    with only_one(tmp_path, "quickstart"):  # which trains itself
        threading.Timer(0.2, leave.set).start()
        with only_one(tmp_path, "training"):
            order.append("second")
    thread.join()
    assert order == ["first", "second"]
    said = capsys.readouterr().err
    assert f"{tmp_path}: another training is under way there (process " in said
    assert said.endswith("; waiting up to 120 s for its end\n")


def test_a_file_system_without_locks_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with only_one(tmp_path, "training"):
        pass
    expected = f"{tmp_path}: its file system has no locks (No locks available): nothing keeps a second training out\n"
    assert capsys.readouterr().err == expected
