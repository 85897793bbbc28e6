"""Several processes, one run: connects them before JAX touches a device.

A run on more than one machine, or on GPUs with a process each, is the same command started once a process. What JAX
recognises needs no option: SLURM (``srun``), Open MPI (``mpirun``), TPU VMs on GKE and on Compute Engine. Elsewhere the
three options say it: ``--coordinator=HOST:PORT --processes=N --process-id=I``, where HOST is the machine of process 0
and PORT any free port of it (``JAX_COORDINATOR_ADDRESS`` may stand for the first). Without any of these a process is
alone, and nothing happens here.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping, Sequence

import jax
from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm  # what JAX's own detection asks; it has no public name

from gato.tokenizers.errors import TRANSIENT, GatoError

ADDRESS_VARIABLE = "JAX_COORDINATOR_ADDRESS"
LATEST = 1800  # seconds in which all processes have to start; a machine may have to pull an image first
SILENT = 15.0  # seconds of waiting before a process says what it waits for


class ProcessesError(GatoError):
    """The processes of a run cannot be connected; the message names the option or the variable."""


class ConnectionFailed(ProcessesError):
    """The machines did not find each other, which they may do at the next start."""

    status = TRANSIENT


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What started this process.

    Attributes:
      method: the name of JAX's detection, or ``None`` where JAX has to ask the machine which it is.
      description: for messages.
      local_devices: GPUs of this process, as numbers among those that it sees; ``None``: as JAX decides.
    """

    method: str | None
    description: str
    local_devices: Sequence[int] | None = None


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of its run, if there are others. To be called before any use of a device.

    Raises:
      ProcessesError: options or variables that are half set or contradict each other.
      ConnectionFailed: a coordinator, a port or a name that is out of reach now. (Processes that do not come within
        `LATEST` seconds are no exception: JAX then ends the process itself, by SIGABRT.)
    """
    explicit = (coordinator, processes, process_id) != (None, None, None)
    cluster = None if explicit else find_cluster(os.environ, running_in_cloud_tpu_vm)
    if cluster is not None:
        _connect(cluster.description, cluster_detection_method=cluster.method, local_device_ids=cluster.local_devices)
        return
    coordinator = coordinator or os.environ.get(ADDRESS_VARIABLE)
    options = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [name for name, value in options.items() if value is None]
    if len(missing) == len(options):
        return
    if missing:
        given = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        raise ProcessesError(
            f"{given} without {' and '.join(missing)}: several processes need all three of {', '.join(options)} "
            f"({ADDRESS_VARIABLE} may stand for the first); one process alone needs none"
        )
    assert coordinator is not None
    assert processes is not None
    assert process_id is not None
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise ProcessesError(f"--coordinator={coordinator}: write HOST:PORT, e.g. node0:1234")
    if process_id >= processes:
        raise ProcessesError(f"--process-id={process_id}: the {processes} processes are 0 to {processes - 1}")
    if processes > 1:
        if process_id == 0:
            _check_port(coordinator)
        _connect(
            f"process {process_id} of {processes}, coordinator {coordinator}",
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process_id,
            cluster_detection_method="deactivate",
        )


def find_cluster(environment: Mapping[str, str], tpu: bool) -> Cluster | None:
    """The cluster of several processes that this one belongs to, or ``None``.

    Args:
      environment: `os.environ`. tpu: whether this machine has TPUs, and the library for them.

    Raises:
      ProcessesError: the environment says that there are several processes, but not which of them this one is.
    """
    # Before SLURM: mpirun inside a SLURM job leaves variables of both.
    ranks = _number(environment, "OMPI_COMM_WORLD_SIZE")
    if ranks > 1:
        needed = ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
        _need(
            environment,
            needed,
            f"OMPI_COMM_WORLD_SIZE={ranks}",
            "Open MPI 5 no longer sets it; give --coordinator=HOST:PORT --processes=$OMPI_COMM_WORLD_SIZE "
            "--process-id=$OMPI_COMM_WORLD_RANK",
        )
        return Cluster("ompi", f"Open MPI, process {environment[needed[1]]} of {ranks}")
    tasks = _number(environment, "SLURM_NTASKS")
    if "SLURM_JOB_ID" in environment and tasks > 1:
        needed = ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
        _need(
            environment,
            needed,
            f"SLURM_NTASKS={tasks} in job {environment['SLURM_JOB_ID']}",
            "start the command with srun, which sets it; to train with one process inside the job, unset SLURM_NTASKS",
        )
        return Cluster("slurm", f"SLURM, process {environment[needed[1]]} of {tasks}", _slurm_gpus(environment, tasks))
    if tpu:
        return _tpu_cluster(environment)
    return None


def _tpu_cluster(environment: Mapping[str, str]) -> Cluster | None:
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    slices = _number(environment, "MEGASCALE_NUM_SLICES")
    if slices > 1:  # the mesh would lay any axis, fsdp too, across the slow network between them
        raise ProcessesError(
            f"MEGASCALE_NUM_SLICES={slices}: a run takes one TPU slice; ask for a larger slice instead"
        )
    if hosts is None:  # not GKE: the metadata server of a TPU VM knows
        return None if "TPU_SKIP_MDS_QUERY" in environment else Cluster(None, "TPU VM")
    count = len(hosts.split(","))
    if count == 1:
        return None
    _need(
        environment,
        ("TPU_WORKER_ID",),
        f"TPU_WORKER_HOSTNAMES={hosts}",
        "GKE sets it in pods of an indexed Job behind a headless service, as launch/clusters/gke_tpu.yaml makes them; "
        "to train on this machine alone, unset TPU_WORKER_HOSTNAMES",
    )
    return Cluster("gketpu", f"GKE, worker {environment['TPU_WORKER_ID']} of {count}")


def _slurm_gpus(environment: Mapping[str, str], tasks: int) -> list[int] | None:
    """All visible GPUs where JAX would wrongly take the one with the task's number on its node.

    That number is right for one task a GPU, all GPUs being visible to each. It is wrong where a node has one task,
    which would train on one of its GPUs (jax-ml/jax #16788), and where SLURM shows each task only its own GPUs
    (``--gpus-per-task``), which begin at number 0 for every task (jax-ml/jax #28194). ``--gpu-bind`` may undo that:
    then a task sees more than it was given.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    count = len(visible.split(","))
    one_a_node = _number(environment, "SLURM_STEP_NUM_NODES") == tasks
    own = environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]  # "2", or with a type "h100:2"
    return list(range(count)) if one_a_node or count == 1 or own == str(count) else None


def _number(environment: Mapping[str, str], name: str) -> int:
    """The value of a variable, 1 if it is not set."""
    text = environment.get(name, "1")
    if not text.isdigit():
        raise ProcessesError(f"{name}={text}: no number; unset it to train with one process")
    return int(text)


def _need(environment: Mapping[str, str], names: Sequence[str], found: str, way_out: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise ProcessesError(f"{found}, but {' and '.join(missing)} not set: {way_out}")


def _check_port(coordinator: str) -> None:
    """Raises `ConnectionFailed` for a port in use, at which the pinned jaxlib crashes without a word.

    And `ProcessesError` for one that never can be used.
    """
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise (ConnectionFailed if in_use else ProcessesError)(
            f"--coordinator={coordinator}: the port cannot be used ({error}); name another"
        ) from error


def _connect(description: str, **arguments: object) -> None:
    # JAX's preemption service would take SIGTERM away from Python, and with it the trainer's own way to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    said = threading.Timer(
        SILENT,
        lambda: print(
            f"gato: {description}: waits for the others, {LATEST // 60} minutes at most", file=sys.stderr, flush=True
        ),
    )
    said.daemon = True
    said.start()
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=LATEST)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        kind = ConnectionFailed if isinstance(error, RuntimeError) else ProcessesError
        raise kind(
            f"{description}: the processes cannot be connected ({str(error).strip().splitlines()[0]}). Were all of "
            "them started, can they reach the coordinator's port, and is it free? See docs/pods.md"
        ) from error
    finally:
        said.cancel()
