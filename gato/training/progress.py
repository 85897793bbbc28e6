"""The live line of a run: a bar on a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gato.data_pipelines.progress import Pace


class LiveLine:
    """Shows step, loss, tokens/s, MFU, share of the time spent waiting for data, and the time that is left."""

    def __init__(self, steps: int, start: int, shown: bool = True) -> None:
        """`shown`: whether anything is written at all; of several processes, one does."""
        self._steps, self._shown = steps, shown
        self._pace: Pace | None = None  # since the first update, when compilation is over
        console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("train", total=steps, completed=start, text="compiling ...")

    def __enter__(self) -> LiveLine:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(message, highlight=False, markup=False)
        elif self._shown:
            print(message, file=sys.stderr, flush=True)

    def update(
        self, step: int, loss: float, tokens_per_second: float, data_wait: float, mfu: float | None = None
    ) -> None:
        """After step `step` (updates made so far).

        Args:
          data_wait: share of the time. mfu: share of the devices' peak; ``None`` where that is not known.
        """
        utilisation = "" if mfu is None else f"  MFU {mfu:.1%}"
        text = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s{utilisation}  data wait {data_wait:.0%}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        self._pace = self._pace or Pace(self._steps, step)
        left = self._pace.due(step, last=step == self._steps)
        if left is not None:
            self.say(f"step {step}/{self._steps}  {text}  ETA {left}")
