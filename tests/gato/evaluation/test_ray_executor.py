"""An evaluation on a local Ray cluster of several workers, one of which is killed; Ray has its own environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gato.evaluation import jobs
from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.evaluate import evaluate
from gato.evaluation.jobs import Protocol
from gato.evaluation.ray_executor import ATTEMPTS

ray = pytest.importorskip("ray", reason="an extra, in an environment of its own: make test-ray")
TASKS = ["unruly/slow", "unruly/steady", "unruly/wide"]


@pytest.fixture(scope="module")
def cluster(unruly_suite):
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def descendants() -> list[int]:
    """Process ids of this process's children, their children and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set(), {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return sorted(found)


def kill_an_actor(killed: list[int]) -> None:
    """The first one that is seen at work."""
    deadline = time.monotonic() + 400
    while not killed and time.monotonic() < deadline:
        for pid in descendants():
            try:
                name = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if name.startswith("ray::_Actor.run"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break
        time.sleep(0.05)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999", "no address"])
def test_a_cluster_that_does_not_answer_is_one_line(address, untrained_run, unruly_suite, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    run_dir = untrained_run(tmp_path, TASKS[:1])
    with pytest.raises(
        EvaluationError, match=rf"RAY_ADDRESS={address}: no Ray cluster .*\); start it .*unset RAY_ADDRESS"
    ):
        evaluate(run_dir, protocol=Protocol(1), executor="ray", progress=False)


@pytest.mark.timeout(600)
def test_a_machine_without_memory_for_the_actors_ends_in_one_line(untrained_run, unruly_suite, tmp_path):
    """Ray kills what the machine has no room for, over and over: not an error of an actor, as it counts."""
    run_dir = untrained_run(tmp_path, TASKS[:1])
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    command = [sys.executable, "-m", "gato.launch.cli", "evaluate", str(run_dir), "--executor=ray", "--episodes=8"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | full)
    assert done.returncode == 2, done.stderr
    assert "begins again" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"gato: {ATTEMPTS} Ray actors died of ")
    assert "memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_nothing_but_time(untrained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "LINES", 1)
    run_dir = untrained_run(tmp_path, TASKS)
    settings = {"protocol": Protocol(8), "progress": False}
    here = evaluate(run_dir, processes=1, simulators=0, out=tmp_path / "here", **settings)
    killed: list[int] = []
    killer = threading.Thread(target=kill_an_actor, args=(killed,))
    killer.start()
    there = evaluate(run_dir, executor="ray", processes=3, simulators=1, out=tmp_path / "there", **settings)
    killer.join()
    assert len(killed) == 1
    assert capsys.readouterr().err.count("a Ray actor died") == 1
    assert here | {"seconds": 0} == there | {"seconds": 0}


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_too_small_says_so(untrained_run, tmp_path):
    run_dir = untrained_run(tmp_path, TASKS[:1])
    with pytest.raises(
        EvaluationError, match=r"has 4 CPUs and 0 GPUs free, and an actor needs 99 and 0; .*--simulators"
    ):
        evaluate(run_dir, protocol=Protocol(1), executor="ray", simulators=99, progress=False)
