"""Real Python processes for tests: started together, watched, killed, and never waited for without a bound."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gato.training.checkpoint import load_for_inference
from gato.training.config import TrainConfig
from gato.training.metrics import read_metrics

TIMINGS = ("tokens_per_second", "mfu", "data_wait")
# Arguments: the address of process 0, how many processes, which one this is; then the program's own.
TOGETHER = """
import sys
import jax
jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from the trainer
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
del sys.argv[1:4]
"""
TRAIN = """
import json, sys
from gato.training.config import TrainConfig
from gato.training.trainer import train
sys.exit(train(TrainConfig.from_json(json.loads(sys.argv[1])), sys.argv[2]).exit_code)
"""


class Processes:
    """Processes of one program; what they print is in files. Use `start`."""

    def __init__(self, popens: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> None:
        self._popens, self._logs = popens, logs

    def output(self, number: int = 0) -> str:
        """What a process printed so far, both streams."""
        return self._logs[number].read_text(errors="replace")

    def send(self, number: int, what: signal.Signals) -> None:
        self._popens[number].send_signal(what)

    def send_to_group(self, number: int, what: signal.Signals) -> None:
        """To a process and all that it started, as Ctrl-C in a terminal does."""
        os.killpg(self._popens[number].pid, what)

    def kill(self, number: int = 0) -> None:
        """SIGKILL; the process is gone when this returns."""
        self._popens[number].kill()
        self._popens[number].wait()

    def until(self, condition: Callable[[], bool], seconds: float = 240) -> bool:
        """Waits for a condition; False if a process ended before it held."""
        end = time.monotonic() + seconds
        while not condition():
            if any(popen.poll() is not None for popen in self._popens):
                return condition()
            assert time.monotonic() < end, f"nothing happened for {seconds} s:\n{self.everything()}"
            time.sleep(0.002)
        return True

    def wait(self, seconds: float = 240) -> list[int]:
        """Exit statuses (128 + the signal's number for a signal) of all of them."""
        end, statuses = time.monotonic() + seconds, []
        for popen in self._popens:
            try:
                status = popen.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still running after {seconds} s:\n{self.everything()}") from None
            statuses.append(128 - status if status < 0 else status)
        return statuses

    def everything(self) -> str:
        """The end of every output, for messages."""
        return "\n".join(f"--- process {n}\n{self.output(n)[-4000:]}" for n in range(len(self._popens)))


@contextlib.contextmanager
def start(
    program: str, arguments: Sequence[object], folder: Path, count: int = 1, devices: int = 1
) -> Iterator[Processes]:
    """Runs `program` in `count` processes with so many devices each; those that are left at the end are killed.

    With several, `jax.distributed` is initialised before the program begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    popens, logs = [], []
    try:
        for number in range(count):
            place = [address, count, number] if count > 1 else []
            code = (TOGETHER if count > 1 else "") + program
            logs.append(folder / f"process{number}.log")
            with logs[-1].open("wb") as log:
                command = [sys.executable, "-c", code, *map(str, [*place, *arguments])]
                popens.append(
                    subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
                )
        yield Processes(popens, logs)
    finally:
        for popen in popens:
            popen.kill()
            popen.wait()


def start_training(
    config: TrainConfig, run_dir: Path, folder: Path, count: int = 1, devices: int = 1, before: str = ""
) -> contextlib.AbstractContextManager[Processes]:
    """`train(config, run_dir)` in processes of its own, after the program `before`."""
    return start(before + TRAIN, [json.dumps(config.to_json()), run_dir], folder, count, devices)


def without_timings(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, but for what is never the same twice."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def assert_same_run(left: Path, right: Path) -> None:
    """What two finished runs of the same configuration leave behind is the same to the bit."""
    assert without_timings(left) == without_timings(right)
    jax.tree.map(np.testing.assert_array_equal, load_for_inference(left)[0], load_for_inference(right)[0])
