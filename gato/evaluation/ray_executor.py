"""The jobs of an evaluation on a Ray cluster (extra ``ray``): one actor a worker, each with its agent and environments.

Jobs go to whichever actor is free. When an actor dies (its node went away, it ran out of memory), another one takes
its place and its job is done again from the start; jobs do not depend on who does them, so the results are the same.
"""

from __future__ import annotations

import collections
import importlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gato.data_pipelines.environments.base import install_command
from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.executors import ONE_THREAD
from gato.evaluation.jobs import Job, Progress, Result, Work, run_job, size
from gato.tokenizers.errors import GatoError

ATTEMPTS = 3  # at one job, before it is what kills the actors
# What Ray says where an actor is gone. Memory and nodes are no actor errors for it: they derive from RayError alone.
_DEATHS = ("RayActorError", "ObjectLostError", "OutOfMemoryError", "NodeDiedError")
_PATIENCE = 60.0  # seconds without news, before a line says what is waited for
_CONNECT_SECONDS = 10.0


class _Actor:
    """What runs in an actor's process."""

    def __init__(self, flags: str) -> None:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        from gato.training.setup import enable_compilation_cache

        enable_compilation_cache()

    def ready(self) -> None:
        """Answers once there is room for the actor, and it has started."""

    def run(self, job: Job, work: Work) -> Result | GatoError:
        """A mistake of the user travels as a value: Ray would wrap it into its own trace."""
        try:
            return run_job(job, work, lambda count: None)
        except GatoError as error:
            return error


def run_on_ray(jobs: Sequence[Job], work: Work, processes: int, advance: Progress) -> Iterator[tuple[Job, Result]]:
    """On the cluster that ``RAY_ADDRESS`` names, or on one that is started on this machine.

    Args:
      processes: actors, as far as the cluster has processors for them.

    Raises:
      EvaluationError: Ray is not installed, no cluster answers at ``RAY_ADDRESS``, the cluster has no processor to
        give, or a job killed several actors.
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray)
    try:
        yield from _run(ray, jobs, work, processes, advance)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:  # no ray://
            # Where nobody listens, Ray itself would try for many minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    except (OSError, RuntimeError, ValueError, OverflowError, ray.exceptions.RayError) as error:
        if not address:  # no mistake in what the user has named
            raise
        reason = (getattr(error, "strerror", None) or _first_line(error)).rstrip(".")
        raise EvaluationError(
            f"RAY_ADDRESS={address}: no Ray cluster can be used there ({reason}); start it (ray start --head), mend "
            "the address, or unset RAY_ADDRESS for a cluster on this machine"
        ) from error


def _run(ray: Any, jobs: Sequence[Job], work: Work, processes: int, advance: Progress) -> Iterator[tuple[Job, Result]]:
    needed = {"num_cpus": max(1, work.simulators), "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}
    offered = ray.available_resources()
    fits = int(offered.get("CPU", 0) // needed["num_cpus"])
    if needed["num_gpus"]:
        fits = min(fits, int(offered.get("GPU", 0)))
    if not fits:
        raise EvaluationError(
            f"the Ray cluster has {offered.get('CPU', 0):g} CPUs and {offered.get('GPU', 0):g} GPUs free, and an actor "
            f"needs {needed['num_cpus']} and {needed['num_gpus']}; wait, add nodes, or give a smaller --simulators"
        )
    gone = tuple(getattr(ray.exceptions, name) for name in _DEATHS)
    remote = ray.remote(**needed)(_Actor)
    flags = "" if needed["num_gpus"] else ONE_THREAD
    idle: list[Any] = []
    running: dict[Any, tuple[Any, Job | None]] = {}  # answer to come -> who gives it, of which job (None: its start)
    waiting, deaths = collections.deque(jobs), collections.Counter[str]()

    def start() -> None:
        actor = remote.remote(flags)
        running[actor.ready.remote()] = actor, None

    for _ in range(min(processes, fits, len(jobs))):
        start()
    while waiting or any(job is not None for _, job in running.values()):
        while waiting and idle:
            actor, job = idle.pop(), waiting.popleft()
            running[actor.run.remote(job, work)] = actor, job
        answers, _ = ray.wait(list(running), timeout=_PATIENCE)
        if not answers:
            if all(job is None for _, job in running.values()):
                print("waiting for room in the Ray cluster", file=sys.stderr)
            continue
        answer = answers[0]
        actor, done = running.pop(answer)
        try:
            result = ray.get(answer)
        except gone as error:
            what = "its start" if done is None else _name(done)
            deaths[what] += 1
            if deaths[what] == ATTEMPTS:
                raise EvaluationError(f"{ATTEMPTS} Ray actors died of {what}: {_first_line(error)}") from error
            print(f"a Ray actor died of {what}, which begins again: {_first_line(error)}", file=sys.stderr)
            if done is not None:
                waiting.appendleft(done)
            start()
            continue
        idle.append(actor)
        if isinstance(result, GatoError):
            raise result
        if done is not None:
            advance(size(done, work.protocol))
            yield done, result


def _name(job: Job) -> str:
    return ", ".join(line.name for line in job.lines) if hasattr(job, "lines") else job.source


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def import_ray() -> Any:
    """The package. Raises EvaluationError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"--executor=ray needs the package ray, which is not installed; in the checkout: {install_command('ray')}"
        ) from error
