"""A trace of some steps: there, of these steps and no others, and readable by what the message names."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from gato.launch import cli
from gato.training.config import TrainConfig
from gato.training.trainer import train


def test_a_run_traces_the_steps_that_it_was_asked_for(
    train_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(train_config.replace(steps=6, checkpoint_every=6), tmp_path, profile_steps=(3, 4))
    message = re.search(r"profile: open (\S+) at https://ui.perfetto.dev.*--logdir (\S+)", capfd.readouterr().err)
    assert message is not None
    assert Path(message[2]) == tmp_path / "profile"
    with gzip.open(message[1]) as file:
        events = json.load(file)["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train" and "args" in event}
    assert {int(step) for step in steps} == {3, 4}
    assert sum(event.get("name") == "data" for event in events) == 2
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))  # what xprof reads


def test_a_run_that_ends_earlier_writes_what_it_has(train_config: TrainConfig, tmp_path: Path) -> None:
    train(train_config.replace(steps=3), tmp_path, profile_steps=(3, 9))
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))


@pytest.mark.parametrize(("steps", "left"), [((4, 9), "1 to 3"), ((1, 3), "none")])
def test_steps_that_the_run_will_not_make_are_said(
    train_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], steps: tuple[int, int], left: str
) -> None:
    config = train_config.replace(steps=3)
    if left == "none":
        train(config, tmp_path)
    capfd.readouterr()
    train(config, tmp_path, profile_steps=steps)
    said = capfd.readouterr().err
    assert f"profile: steps {steps[0]} to {steps[1]} are not among those left ({left}), so nothing is traced" in said
    assert not (tmp_path / "profile").exists()


def test_steps_on_the_command_line() -> None:
    assert cli.parse(["train", "--config=a", "--out=b", "--profile-steps=10:15"]).profile_steps == (10, 15)


@pytest.mark.parametrize("text", ["15:10", "0:4", "10", "a:b"])
def test_other_steps_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config=a", "--out=b", f"--profile-steps={text}"]) == 2
    assert f"{text!r} is no FIRST:LAST" in capsys.readouterr().err
