"""Processes that are killed and disks that fill up: the run goes on to the same bits."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import assert_same_run, start_training, without_timings

from gato.training.checkpoint import saved_steps
from gato.training.metrics import read_metrics
from gato.training.trainer import train


def kill_and_resume(config, run_dir, logs, kills, rng):
    """Kills the run at so many random moments: while it starts, trains or saves. Returns the steps it resumed from."""
    metrics, resumed = run_dir / "metrics.jsonl", []
    for attempt in range(kills):
        resumed.append(max(saved_steps(run_dir), default=0))
        with start_training(config, run_dir, logs / str(attempt)) as processes:
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 6))  # it still starts
            else:
                # So many steps after the one it resumes from, and then a little later: in the middle of something.
                goal = resumed[-1] + int(rng.integers(1, 3 * config.checkpoint_every))
                goal = min(goal, config.steps - 1)

                def reached(processes=processes, goal=goal):  # the lines of its predecessor go before its first step
                    steps = (line["step"] for line in read_metrics(metrics))
                    return "first step" in processes.output() and max(steps, default=0) >= goal

                alive = processes.until(reached)
                assert alive, f"the run ended by itself:\n{processes.everything()}"
                time.sleep(rng.uniform(0, 0.2))
            processes.kill()
    return resumed


def test_a_killed_and_a_stopped_run_go_on_to_the_same_bits(train_config, tmp_path):
    config = train_config.replace(steps=60, checkpoint_every=3)
    train(config, tmp_path / "whole")
    run = tmp_path / "run"
    kill_and_resume(config, run, tmp_path / "logs", 1, np.random.default_rng(4))
    killed_at = saved_steps(run)[-1]
    with start_training(config, run, tmp_path / "logs" / "stopped") as process:
        assert process.until(lambda: "first step" in process.output()), process.everything()
        process.send(0, signal.SIGTERM)
        assert process.wait() == [143], process.everything()
    stopped_at = saved_steps(run)[-1]
    assert 0 < killed_at < stopped_at < 60
    assert without_timings(run)[-1]["step"] == stopped_at
    assert train(config, run).step == 60
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_loaders_processes_outlive_a_signal_to_all(train_config, tmp_path, number, status):
    """Ctrl-C reaches them too, while the run still needs the batch of its last step."""
    run = tmp_path / "run"
    config = train_config.replace(steps=2000, checkpoint_every=2000, loader_workers=2, loader_threads=1)
    with start_training(config, run, tmp_path / "logs") as process:
        assert process.until(lambda: max((m["step"] for m in read_metrics(run / "metrics.jsonl")), default=0) > 5)
        process.send_to_group(0, number)
        assert process.wait() == [status], process.everything()
    assert "Traceback" not in process.output()
    assert saved_steps(run) == [without_timings(run)[-1]["step"]]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(train_config, tmp_path):
    config = train_config.replace(steps=400, checkpoint_every=3)
    train(config, tmp_path / "whole")
    resumed = kill_and_resume(config, tmp_path / "killed", tmp_path / "logs", 50, np.random.default_rng(0))
    assert len(set(resumed)) > 25, "it got on between the kills"
    assert train(config, tmp_path / "killed").step == 400
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


# In a mount namespace of its own, where the run directory lies on a small tmpfs: the disk is really full. The second
# argument is the command that makes it larger.
FULL_DISK = """
import json, subprocess, sys
from gato.training.checkpoint import load_for_inference, saved_steps
from gato.training.checkpoint_meta import CheckpointError
from gato.training.config import TrainConfig
from gato.training.trainer import train
config, run = TrainConfig.from_json(json.loads(sys.argv[1])), sys.argv[2]
try:
    train(config, run)
except CheckpointError as error:
    print("refused:", error)
good = saved_steps(run)
print("good:", *good)
load_for_inference(run)
subprocess.run(["mount", "-o", "remount,size=1g", run], check=True)
assert train(config, run).step == config.steps
subprocess.run(["cp", "-r", run + "/metrics.jsonl", run + "/checkpoints", sys.argv[3]], check=True)
"""


def can_mount():
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    not can_mount(), reason="needs unshare and mount; without, the limit on the size of files is tested"
)
@pytest.mark.parametrize("checkpoints", [1.5, 2.5, 2.95])
def test_a_full_disk_costs_only_the_checkpoint_that_did_not_fit(train_config, tmp_path, checkpoints):
    config = train_config.replace(steps=20, checkpoint_every=4, keep=3)
    train(config, tmp_path / "whole")
    folder = tmp_path / "whole" / "checkpoints" / "20"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    mount = f'mount -t tmpfs -o size={int(size * checkpoints)} tmpfs {run} && exec "$@"'
    program = [sys.executable, "-c", FULL_DISK, json.dumps(config.to_json()), run, out]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *program]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    good = [4 * n for n in range(1, int(checkpoints) + 1)]
    assert f"good: {' '.join(map(str, good))}" in done.stdout
    assert "cannot write the checkpoint" in done.stdout
    assert f"resumes from step {good[-1]}" in done.stdout
    assert "Traceback" not in done.stderr
    assert_same_run(out, tmp_path / "whole")
