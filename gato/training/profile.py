"""A trace of some steps of a run: what host and devices did when (``gato train ... --profile-steps=10:15``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

FOLDER = "profile"


class Profile:
    """Traces the steps `first` to `last` into ``<run>/profile``, on process 0.

    All processes of a run know the steps, not only the one that writes: where the trace ends, the trainer waits for the
    devices, and what it does then it does on all of them.

    The host's side shows the dispatch of each step ("train") and the waiting for its batch ("data"), not every Python
    call: those of the loader's threads would be most of the file.
    """

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None, left: range, say: Callable[[str], None]) -> None:
        """`steps`: first and last, numbered as in metrics.jsonl; ``None``: no trace. `left`: the steps to come."""
        self._folder, self._say = run_dir / FOLDER, say
        self._first, self._last = steps or (0, 0)
        self._running = False
        if steps and not range(max(self._first, left.start), min(self._last + 1, left.stop)):
            which = f"{left.start} to {left.stop - 1}" if left else "none"
            say(
                f"profile: steps {self._first} to {self._last} are not among those left ({which}), so nothing is traced"
            )

    def before(self, step: int) -> None:
        """Begins the trace if `step`, about to be dispatched, is the first one to trace."""
        if self._first <= step <= self._last and not self._running and jax.process_index() == 0:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
            self._running = True

    def ends_with(self, step: int) -> bool:
        """Whether the trace is to be closed once the devices have finished `step`; the same on every process."""
        return step == self._last

    def close(self) -> None:
        """Writes the trace, if one was begun, and says how to open it."""
        if not self._running:
            return
        jax.profiler.stop_trace()
        self._running = False
        trace = max(self._folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
        self._say(
            f"profile: open {trace} at https://ui.perfetto.dev, "
            f"or run: pip install xprof && xprof --logdir {self._folder}"
        )
