"""Progress where there is no terminal: plain lines, rarely."""

from __future__ import annotations

from gato.data_pipelines import progress as module
from gato.data_pipelines.progress import progress


def test_plain_lines_say_how_much_and_how_long(capsys, monkeypatch):
    now = iter([0.0, 4.0, 10.0, 12.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with progress(40, "collecting") as advance:
        for name in ("a", "b", "c", "d"):
            advance(10, name)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["collecting   50%  10 s left  b", "collecting  100%  0 s left  d"]


def test_what_was_done_before_says_nothing_about_the_time_left(capsys, monkeypatch):
    now = iter([0.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with progress(100, "importing", done=80) as advance:
        advance(10, "a")  # 10 in 20 seconds, and 10 are left
    assert capsys.readouterr().err == "importing   90%  20 s left  a\n"


def test_nothing_is_shown_when_nobody_wants_it(capsys):
    with progress(2, "collecting", shown=False) as advance:
        advance(2, "a")
    assert capsys.readouterr() == ("", "")
