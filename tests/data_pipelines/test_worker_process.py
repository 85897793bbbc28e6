"""Workers end at once with what they work for, and SIGTERM ends a whole collection within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gato.data_pipelines.worker_process import cores, worker_pool


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_results_come_back_and_an_exception_ends_the_workers_at_once() -> None:
    with worker_pool(2) as executor:
        assert executor.submit(pow, 2, 5).result() == 32
        workers = list(executor._processes)
    assert not any(_runs(number) for number in workers)
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as executor:
        assert executor.submit(pow, 2, 5).result() == 32
        workers = list(executor._processes)
        executor.submit(time.sleep, 600)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60
    assert not any(_runs(number) for number in workers)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


SUITE = """
import time
import numpy as np
from gato.data_pipelines.environments.base import Task
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

class Environment:
    spec = EpisodeSpec.of({"x": LeafSpec("continuous", (1,))}, LeafSpec("discrete", values=2))
    def __init__(self, seconds):
        self.seconds = seconds
    def reset(self, seed):
        return {"x": np.zeros(1, np.float32)}
    def step(self, action):
        time.sleep(self.seconds)
        return self.reset(0), 1.0, True, False, {}
    def close(self):
        pass

def task_names():
    return ["slow/quick", "slow/endless"]

def make_task(name):
    seconds = 0.0 if name == "slow/quick" else 600.0
    answer = {"action": np.int32(1)}
    return Task(name, lambda: Environment(seconds), lambda *_: lambda _: answer, "return", 2000)
"""
# The workers import the script too, under another name, and so know the suite.
SCRIPT = """
import sys
from gato.data_pipelines.environments import registry
from gato.launch import cli
registry.SUITES["slow"] = "slow_suite"
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_sigterm_ends_a_collection_within_seconds_and_keeps_what_is_finished(tmp_path: Path) -> None:
    (tmp_path / "slow_suite.py").write_text(SUITE)
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "data"
    arguments = ["collect", "slow/quick", "slow/endless", "--episodes", "2", "--processes", "2", "--out", str(out)]
    command = [sys.executable, str(tmp_path / "script.py"), *arguments]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        while not (out / "slow/quick/store.json").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        process.terminate()  # the main process alone, as a service manager does it
        _, error = process.communicate(timeout=120)  # a step of "slow/endless" takes 600 s
        assert process.returncode == 143
        assert "run the same command again" in error
        assert "Traceback" not in error
        with pytest.raises(ProcessLookupError):
            while True:
                os.killpg(process.pid, 0)
                time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert [path.parent.name for path in out.rglob("store.json")] == ["quick"]
    assert not list(out.rglob("*.partial"))
