"""The progress of a long job: a bar with the time left on a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gato.data_pipelines.durations import duration

PLAIN_SECONDS = 10.0

Advance = Callable[[float, str], None]  # work done since the last call, and what is under way now


@contextlib.contextmanager
def progress(total: float, title: str, shown: bool = True, done: float = 0.0) -> Iterator[Advance]:
    """While entered, shows on stderr how much of `total` (in any unit) was done; yields the function to call.

    Args:
      done: of the total, before this began: what an interrupted predecessor did says nothing about the time left.
    """
    console = Console(stderr=True)
    if not shown:
        yield lambda amount, name: None
    elif console.is_terminal:
        left = (TextColumn("left"), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), *left)
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=int(done))
            yield lambda amount, name: bar.update(task, advance=amount, description=name)
    else:
        yield _Lines(total, title, done)


class Pace:
    """When a plain line is due, and the time that is left at the speed since this began.

    Args:
      total: in any unit. done: of it, before this began.
    """

    def __init__(self, total: float, done: float = 0.0) -> None:
        self._total, self._before = total, done
        self._began = self._printed = time.monotonic()

    def due(self, done: float, last: bool = False) -> str | None:
        """The time left, if a line is due now or is the last one; None if there is nothing to print."""
        now = time.monotonic()
        if not last and (now - self._printed < PLAIN_SECONDS or done == self._before):
            return None
        self._printed = now
        speed = (done - self._before) / max(now - self._began, 1e-9)
        return duration(int(max(self._total - done, 0.0) / speed) if speed else 0)


class _Lines:
    def __init__(self, total: float, title: str, done: float) -> None:
        self._total, self._title, self._done = total, title, done
        self._pace = Pace(total, done)

    def __call__(self, amount: float, name: str) -> None:
        self._done += amount
        left = self._pace.due(self._done)
        if left is not None:
            print(f"{self._title}  {self._done / self._total:4.0%}  {left} left  {name}", file=sys.stderr, flush=True)
