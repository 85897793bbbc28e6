"""The other processes of a run: when to stop together, and what to do when one of them is gone.

A process that has lost another waits in a collective operation, on some backends for ever. So each process leaves a
sign of life with JAX's coordination service every second, and looks at those of the others. JAX's own heartbeats end
the process too, later and by SIGABRT; they are what remains when process 0, which runs that service, is the one lost.

In a run of one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the client's key-value store has no public name

from gato.tokenizers.errors import TRANSIENT, GatoError, Terminated, printed, status_of
from gato.training.checkpoint_meta import CheckpointError

BEAT = 1.0  # seconds between two signs of life
LOST_AFTER = 30.0  # seconds without one
GRACE = 5.0  # seconds in which a process may find its own words for what ended another one

_runs = itertools.count()  # every process counts the same


class Peers:
    """Entered for the length of a run, as soon as the processes are connected: of one that never entered, nothing is
    heard here.

    An exception that leaves it in a run of several processes is printed and ends the process at once, with the status
    of the command line for it (`status_of`), 130 for Ctrl-C, 143 for SIGTERM and 1 for anything else: the ordinary way
    out waits minutes for processes that will not come.
    """

    def __init__(self) -> None:
        state = distributed.global_state  # unlike `jax.process_count`, it does not wait for every process's devices
        self._count, self._index = state.num_processes, state.process_id
        self._client: Any = state.client if self._count > 1 else None
        self._place = f"gato/{next(_runs)}"
        self._stop: tuple[int, signal.Signals] | None = None
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="peers", daemon=True)

    def __enter__(self) -> Peers:
        if self._client is not None:
            self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is None:
            return
        if isinstance(error, jax.errors.JaxRuntimeError | CheckpointError):
            # Perhaps a broken collective, of a step or a save, and the watching thread will know of whom.
            time.sleep(LOST_AFTER + 2 * BEAT)
        self._over.set()
        self._watching.join(GRACE)  # or its next beat would stand where the last word belongs
        if error is None:
            self._say("done")
            return
        status = status_of(error)
        if status is not None:
            print(f"gato: {printed(error)}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            status = error.status if isinstance(error, Terminated) else 128 + signal.SIGINT
        else:
            status = 1
            traceback.print_exception(error)
        self._say(f"failed {status} {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}")
        sys.stderr.flush()
        if self._index == 0:
            time.sleep(GRACE + 2 * BEAT)  # the others must be able to read it
        os._exit(status)

    def stopping(self, step: int, noted: signal.Signals | None) -> signal.Signals | None:
        """The signal at which the run stops after `step`, the same on every process; None to go on.

        Every process asks once after each step that it dispatched, having read the step before.

        Args:
          noted: what this process was sent.
        """
        if self._client is None:
            return noted
        if self._stop is None:
            if noted is not None:
                # A process that asks about step + 2 has read step + 1, which this process dispatches later than now:
                # so whoever gets there sees this.
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was the first to say when
                    self._client.key_value_set(f"{self._place}/stop", f"{step + 2} {int(noted)}")
            try:
                when, number = self._client.key_value_try_get(f"{self._place}/stop").split()
                self._stop = int(when), signal.Signals(int(number))
            except jax.errors.JaxRuntimeError:
                return None  # nobody said anything
        when, which = self._stop
        return which if step >= when else None

    def _say(self, state: str) -> None:
        try:
            self._client.key_value_set(f"{self._place}/alive/{self._index}", state, allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            if self._over.is_set():
                return  # at the end, process 0 may have gone before
            _end("process 0 does not answer any more")

    def _watch(self) -> None:
        heard: dict[str, tuple[str, float]] = {}  # of each process, its last sign and when it was seen first
        for beat in itertools.count():
            self._say(str(beat))
            try:
                signs = self._client.key_value_dir_get(f"{self._place}/alive/")
            except jax.errors.JaxRuntimeError:
                signs = []  # then `_say` fails too
            now = time.monotonic()
            for key, sign in signs:
                process = key.rpartition("/")[2]
                if heard.get(process, ("", 0.0))[0] != sign:
                    heard[process] = sign, now
                silence = now - heard[process][1]
                if sign == "done" or process == str(self._index):
                    continue
                if sign.startswith("failed") and silence > GRACE:
                    _, status, words = sign.split(" ", 2)
                    _end(f"process {process} of {self._count} ended ({words})", int(status))
                if silence > LOST_AFTER:
                    _end(f"no sign of life from process {process} of {self._count} for {silence:.0f} s")
            if self._over.wait(BEAT):
                return


def _end(message: str, cause: int = TRANSIENT) -> NoReturn:
    """`cause`: the status of the process that is gone. What no start can mend is that for all: a cluster's restart
    policy may ask any of them."""
    message = f"gato: {message}; this process ends too"
    if cause != GatoError.status:
        message += ". Start all of them again with the same command: the run goes on from its newest checkpoint"
    print(message, file=sys.stderr, flush=True)
    os._exit(cause if cause == GatoError.status else TRANSIENT)
