"""Several processes: what is recognised, what is refused, and SLURM's script on processes of this machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gato.launch import cli
from gato.training import processes
from gato.training.checkpoint import saved_steps
from gato.training.metrics import read_metrics
from gato.training.processes import Cluster, ProcessesError, find_cluster, start_processes

ROOT = Path(__file__).resolve().parents[3]
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "tpu", "method"),
    [
        ({}, False, "alone"),
        ({"SLURM_JOB_ID": "7"}, False, "alone"),  # salloc, and the command without srun
        ({**SLURM, "SLURM_NTASKS": "1"}, False, "alone"),
        (SLURM, False, "slurm"),
        (MPI, False, "ompi"),
        ({**SLURM, **MPI}, False, "ompi"),  # mpirun inside a job
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False, "alone"),
        (GKE, True, "gketpu"),
        ({**GKE, "TPU_WORKER_HOSTNAMES": "a"}, True, "alone"),
        (GKE, False, "alone"),  # no TPU here: the variables of `gato plan`, say
        ({}, True, None),  # a TPU VM: JAX asks it
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, "alone"),
    ],
)
def test_what_is_recognised(environment: dict[str, str], tpu: bool, method: str | None) -> None:
    found = find_cluster(environment, tpu)
    assert ("alone" if found is None else found.method) == method


@pytest.mark.parametrize(
    ("environment", "tpu", "message"),
    [
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            False,
            "_STEP_NODELIST",
        ),
        ({**SLURM, "SLURM_NTASKS": "many"}, False, "SLURM_NTASKS=many"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, False, "OMPI_MCA_orte_hnp_uri and OMPI_COMM_WORLD_RANK"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True, "TPU_WORKER_ID"),
        ({**GKE, "MEGASCALE_NUM_SLICES": "2"}, True, "a run takes one TPU slice"),
        ({"MEGASCALE_NUM_SLICES": "2"}, True, "a run takes one TPU slice"),
    ],
)
def test_a_half_set_environment_is_refused_by_name(environment: dict[str, str], tpu: bool, message: str) -> None:
    with pytest.raises(ProcessesError, match=message):
        find_cluster(environment, tpu)


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, None),  # no GPUs
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, None),  # one task a GPU: JAX takes SLURM_LOCALID
        ({"CUDA_VISIBLE_DEVICES": "0"}, [0]),  # --gpus-per-task=1
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, [0, 1]),  # --gpus-per-task=2
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "h100:2"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "1"}, None),  # and --gpu-bind=none
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_NTASKS": "2"}, [0, 1, 2, 3]),  # one task a node
        ({"CUDA_VISIBLE_DEVICES": "0", "JAX_LOCAL_DEVICE_IDS": "0"}, None),  # the user decides
    ],
)
def test_gpus_of_a_slurm_task(changes: dict[str, str], devices: list[int] | None) -> None:
    found = find_cluster(SLURM | changes, tpu=False)
    assert isinstance(found, Cluster)
    assert found.local_devices == devices


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--coordinator=a:1"], {}, "--coordinator=a:1 without --processes and --process-id"),
        (["--processes=2", "--process-id=0"], {}, "without --coordinator"),
        ([], {"JAX_COORDINATOR_ADDRESS": "a:1"}, "--coordinator=a:1 without --processes"),
        (["--coordinator=a", "--processes=2", "--process-id=0"], {}, "write HOST:PORT"),
        (["--coordinator=a:1", "--processes=2", "--process-id=2"], {}, "the 2 processes are 0 to 1"),
        ([], {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "start the command with srun"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    variables: dict[str, str],
    message: str,
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", f"--config={experiment}", "--out", str(experiment.parent / "run"), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (experiment.parent / "run").exists()


def test_a_port_that_is_taken_now_is_worth_another_start(experiment: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        arguments = ["--coordinator", address, "--processes=2", "--process-id=0", "--out", str(tmp_path / "run")]
        command = [sys.executable, "-m", "gato.launch.cli", "train", f"--config={experiment}", *arguments]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 75, done.stderr
    assert f"gato: --coordinator={address}: the port cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_cannot_be_is_a_mistake(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--coordinator=localhost:99999", "--processes=2", "--process-id=0", f"--out={tmp_path / 'run'}"]
    assert cli.main(["train", f"--config={experiment}", *arguments]) == 2
    assert "--coordinator=localhost:99999: the port cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("no answer"), 75), (ValueError("no name"), 2)])
def test_only_what_no_restart_can_mend_ends_with_2(
    error: Exception, status: int, experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(processes.jax.distributed, "initialize", fail)
    arguments = [
        "--coordinator=elsewhere:1",
        "--processes=2",
        "--process-id=1",
        "--out",
        str(experiment.parent / "run"),
    ]
    assert cli.main(["train", f"--config={experiment}", *arguments]) == status
    assert f"the processes cannot be connected ({error})" in capsys.readouterr().err


def test_one_process_alone_connects_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda **_: pytest.fail("connects"))
    start_processes()
    start_processes("localhost:1", 1, 0)


# What SLURM would do on one node of two tasks without GPUs: the variables that JAX reads, and the first failure counts.
SRUN = """
[[ " $* " == *" --cpus-per-task=3 gato "* ]] || exit 9  # sbatch's own, which a real srun does not know of
while [[ $1 == --* ]]; do shift; done
export JAX_PLATFORMS=cpu SLURM_JOB_ID={job} SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=localhost
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; status=$?
wait $second && exit $status
"""


@pytest.mark.slow
def test_the_slurm_script_on_two_processes_of_this_machine(experiment: Path, tmp_path: Path) -> None:
    """The script itself, with an `srun` in the place of SLURM's: the same command, and one run of both processes."""
    run = tmp_path / "run"
    _program(tmp_path / "bin" / "srun", SRUN.format(job=_free_job()))
    _program(tmp_path / "bin" / "gato", f'exec {sys.executable} -m gato.launch.cli "$@"')
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"GATO_COMPILATION_CACHE": str(tmp_path / "cache"), "SLURM_CPUS_PER_TASK": "3"}
    script = ROOT / "launch" / "clusters" / "slurm.sh"
    command = ["bash", str(script), f"--config={experiment}", "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "2 x cpu in 2 processes (mesh: data 2, fsdp 1, tensor 1)" in done.stderr
    assert done.stderr.count("step 4/4") == 1  # one of the two speaks
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [1, 2, 3, 4]
    assert saved_steps(run) == [4]


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _free_job() -> int:
    """A job number whose port, which JAX computes from it, is free: 61440 and the number's last 12 bits."""
    for job in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as sock:
            try:
                sock.bind(("", 61440 + job % 4096))
                return job
            except OSError:
                continue
    raise AssertionError("no free port")
