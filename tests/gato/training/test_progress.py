"""The live line where there is no terminal: rarely, with the time left, and always at the end."""

from __future__ import annotations

import pytest

from gato.data_pipelines import progress
from gato.training.progress import LiveLine


def test_plain_lines_leave_the_compilation_out_of_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with LiveLine(steps=14, start=4) as line:
        for step, clock[0] in ((5, 100.0), (6, 104.0), (8, 112.0), (14, 113.0)):
            line.update(step, loss=2.0, tokens_per_second=1234.0, data_wait=0.05)
    rest = "loss 2.0000  1,234 tokens/s  data wait 5%"
    assert capsys.readouterr().err.splitlines() == [f"step 8/14  {rest}  ETA 24 s", f"step 14/14  {rest}  ETA 0 s"]


def test_a_run_of_one_step_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine(steps=1, start=0) as line:
        line.update(1, loss=2.0, tokens_per_second=1.0, data_wait=0.0)
    assert capsys.readouterr().err.startswith("step 1/1  loss 2.0000")


def test_the_share_of_the_peak_where_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine(steps=1, start=0) as line:
        line.update(1, loss=2.0, tokens_per_second=1.0, data_wait=0.0, mfu=0.3456)
    assert "1 tokens/s  MFU 34.6%  data wait 0%" in capsys.readouterr().err


def test_of_several_processes_one_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine(steps=1, start=0, shown=False) as line:
        line.say("hello")
        line.update(1, loss=2.0, tokens_per_second=1.0, data_wait=0.0)
    assert capsys.readouterr().err == ""
