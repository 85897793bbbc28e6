"""The progress of a long job: a bar with the time left on a terminal, one plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


class _Lines:
    def __init__(self, total: float, title: str, done: float) -> None:
        self._total, self._title, self._before = total, title, done
        self._began = self._printed = time.monotonic()
        self._done = done

    def __call__(self, amount: float, name: str) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._printed < PLAIN_SECONDS or self._done == self._before:
            return
        self._printed = now
        left = (now - self._began) * max((self._total - self._done) / (self._done - self._before), 0.0)
        share = f"{self._done / self._total:4.0%}  {int(left) // 60}:{int(left) % 60:02d} left"
        print(f"{self._title}  {share}  {name}", file=sys.stderr, flush=True)
