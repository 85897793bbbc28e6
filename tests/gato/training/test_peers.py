"""Two real processes of one run: one is lost, one is told to stop, one fails; and what the other one does."""

import signal
import time

import jax
import numpy as np
import pytest
from processes import assert_same_run, start, start_training, without_timings

from gato.training.checkpoint import load_for_inference, saved_steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BOUND = 150  # seconds from the loss of a process to the end of the other, on a busy machine


@pytest.fixture(scope="module")
def pair_config(train_config):
    return train_config.replace(steps=24, checkpoint_every=4, validation_every=4, validation_batches=1)


@pytest.fixture(scope="module")
def pair_run(pair_config, tmp_path_factory):
    """The run of two processes, without interruption."""
    folder = tmp_path_factory.mktemp("pair")
    with start_training(pair_config, folder / "run", folder / "logs", count=2) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    return folder / "run"


def until_saved(pair, run, steps):
    assert pair.until(lambda: len(saved_steps(run)) >= steps), pair.everything()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_one_ends_and_the_pair_goes_on_to_the_same_bits(pair_config, pair_run, tmp_path, lost):
    run, other = tmp_path / "run", 1 - lost
    with start_training(pair_config, run, tmp_path / "first", count=2) as pair:
        until_saved(pair, run, 2)
        pair.kill(lost)
        began = time.monotonic()
        status = pair.wait(BOUND)[other]
        print(f"process {other} ended {time.monotonic() - began:.1f} s later with status {status}")
    said = pair.output(other)
    if lost == 1:
        assert status == 75, said
        assert "gato: no sign of life from process 1 of 2" in said
        assert "the run goes on from its newest checkpoint" in said
    else:
        assert status in (75, 134), said
        assert "gato: " in said or "another task died" in said
    assert saved_steps(run)[-1] < pair_config.steps
    with start_training(pair_config, run, tmp_path / "second", count=2) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    assert "resumed from step" in pair.output(0)
    assert_same_run(run, pair_run)


@pytest.mark.parametrize("told", [0, 1])
def test_both_stop_at_the_same_step_when_one_is_told_to(pair_config, pair_run, tmp_path, told):
    run = tmp_path / "run"
    with start_training(pair_config, run, tmp_path / "first", count=2) as pair:
        until_saved(pair, run, 1)
        pair.send(told, signal.SIGTERM)
        assert pair.wait(BOUND) == [143, 143], pair.everything()
    stopped = saved_steps(run)[-1]
    assert 4 <= stopped < pair_config.steps
    with start_training(pair_config, run, tmp_path / "second", count=2) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    assert_same_run(run, pair_run)


WAITS = """
import sys, time
from gato.launch import cli, report
from gato.training.peers import Peers
def run(arguments):
    with Peers():
        print("waiting", flush=True)
        time.sleep(600)
report.run = run
sys.exit(cli.main(["report", "x"]))
"""


def test_sigterm_before_the_first_step_ends_with_its_own_status(tmp_path):
    with start(WAITS, [], tmp_path, count=2) as pair:
        assert pair.until(lambda: all("waiting" in pair.output(n) for n in (0, 1))), pair.everything()
        for process in (0, 1):
            pair.send(process, signal.SIGTERM)
        assert pair.wait(BOUND) == [143, 143], pair.everything()


# Process 0 reads long for its checksums; and each says what is on disk when it has waited for a save.
SLOW_MANIFEST = """
import time
from gato.training import manifest
from gato.training.checkpoint import Checkpoints, saved_steps
write, wait = manifest.write_manifest, Checkpoints.wait
def slow(folder):
    time.sleep(3)
    write(folder)
def waited(self):
    wait(self)
    print("waited for:", self.latest, max(saved_steps(self._run_dir), default=None), flush=True)
manifest.write_manifest, Checkpoints.wait = slow, waited
"""


def test_both_wait_until_a_save_has_its_checksums(pair_config, pair_run, tmp_path):
    """Or one of them would wait in the next save, or at the end, where others give up after five minutes."""
    config, run = pair_config.replace(checkpoint_every=12), tmp_path / "run"
    with start_training(config, run, tmp_path / "logs", count=2, before=SLOW_MANIFEST) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    for number in (0, 1):
        lines = [line.split()[2:] for line in pair.output(number).splitlines() if line.startswith("waited for: ")]
        assert lines[0] == ["None", "None"]
        assert {"12", "24"} == {latest for latest, _ in lines[1:]}
        assert all(latest == newest for latest, newest in lines), lines
    assert_same_run(run, pair_run)


FAILS_ON_1 = """
from gato.tokenizers.errors import GatoError
from gato.training import setup, trainer
build = setup.build
def fail(config):
    import jax
    if jax.process_index() == 1:
        raise GatoError("data/rooms: no such store")
    return build(config)
trainer.build = fail
"""


def test_a_process_that_fails_before_the_first_step_ends_the_other_with_its_words(pair_config, tmp_path):
    with start_training(pair_config, tmp_path / "run", tmp_path / "logs", count=2, before=FAILS_ON_1) as pair:
        assert pair.wait(BOUND) == [2, 2], pair.everything()  # no restart policy of either may start them again
    assert "gato: data/rooms: no such store" in pair.output(1)
    assert "process 1 of 2 ended (GatoError: data/rooms: no such store)" in pair.output(0)
    assert "Start all of them again" not in pair.output(0)


# The command line, where process 1 does not get as far as the others' first wait for it.
COMMAND = """
import os, signal, sys
from jax._src import distributed
from gato.launch import cli, train
arguments, second = sys.argv[2:], distributed.global_state.process_id == 1
if second and sys.argv[1] == "mistake":
    arguments.append("--config.text_model=/nowhere/text.model")
if second and sys.argv[1] == "killed":
    train.train_config = lambda config: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(arguments))
"""


@pytest.mark.parametrize(
    ("how", "statuses", "said"),
    [
        ("mistake", [2, 2], "gato: process 1 of 2 ended (GatoError: /nowhere/text.model"),
        ("killed", [75, 137], "gato: no sign of life from process 1 of 2"),
    ],
)
def test_a_process_that_ends_before_it_has_read_its_configuration_ends_the_other(
    experiment, tmp_path, how, statuses, said
):
    arguments = [how, "train", f"--config={experiment}", "--out", tmp_path / "run"]
    with start(COMMAND, arguments, tmp_path / "logs", count=2) as pair:
        assert pair.wait(BOUND) == statuses, pair.everything()
    assert said in pair.output(0)


def test_what_the_disk_refuses_process_0_is_a_mistake_of_the_user_for_both(pair_config, tmp_path):
    """Only process 0 opens the lock; here a directory has its name."""
    run = tmp_path / "run"
    (run / ".training.lock").mkdir(parents=True)
    with start_training(pair_config, run, tmp_path / "logs", count=2) as pair:
        assert pair.wait(BOUND) == [2, 2], pair.everything()
    assert f"gato: [Errno 21] Is a directory: '{run}/.training.lock'" in pair.output(0)
    assert "Traceback" not in pair.output(0)
    assert "process 0 of 2 ended (IsADirectoryError: " in pair.output(1)


# Says which files of a checkpoint's parameters this process reads for their checksums.
READ = """
from gato.training import manifest
checksum = manifest._checksum
def told(path):
    if "params" in path.parts:
        print(f"read: {path}\\n", end="", flush=True)
    return checksum(path)
manifest._checksum = told
"""


def test_a_pair_starts_from_the_parameters_of_another_run(train_config, finished_run, tmp_path):
    run = tmp_path / "run"
    config = train_config.replace(initial=str(finished_run), steps=3)
    with start_training(config, run, tmp_path / "logs", count=2, before=READ) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    lines = (pair.output(0) + pair.output(1)).splitlines()
    read = sorted(line for line in lines if line.startswith(f"read: {finished_run}"))
    files = (finished_run / "checkpoints" / "8" / "params").rglob("*")
    assert read == sorted(f"read: {path}" for path in files if path.is_file()), "each by one of the two"
    assert f"arrays from {finished_run}/checkpoints/8\n" in pair.output(0)
    first, before = (without_timings(place)[0]["loss"] for place in (run, finished_run))
    assert first < before - 0.3


def test_a_pair_goes_on_as_one_process_and_one_process_as_a_pair(pair_config, pair_run, tmp_path):
    """What was restored is the same; the steps after it are not to the bit. Another number of processes cuts the batch
    elsewhere and pads its lists of targets to another size, so sums run in another order, and Adam divides by the size
    of a gradient: where that is near zero, a last bit of it decides over up to a learning rate (3e-3) a step. The same
    processes again do give the same bits, as the tests above demand.
    """
    expected, _ = load_for_inference(pair_run)
    for first, second in ((2, 1), (1, 2)):
        run = tmp_path / f"{first}{second}"
        with start_training(pair_config, run, tmp_path / f"{run.name}-first", count=first) as processes:
            until_saved(processes, run, 1)
            processes.send(0, signal.SIGTERM)
            assert processes.wait() == [143] * first, processes.everything()
        with start_training(pair_config, run, tmp_path / f"{run.name}-second", count=second) as processes:
            assert processes.wait() == [0] * second, processes.everything()
        assert "resumed from step" in processes.output()
        params, _ = load_for_inference(run)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, expected)
