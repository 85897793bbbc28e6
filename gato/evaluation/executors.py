"""Who does the jobs of an evaluation: this process, several on this machine, or a Ray cluster.

An executor is a function ``(jobs, work, processes, advance)`` that yields every job with its result, in the order in
which they finish; ``advance(n)`` after n more episodes or documents. Each process has its own agent and environments.
"""

from __future__ import annotations

import concurrent.futures.process
import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gato.data_pipelines.worker_process import as_finished, start_worker, tell, worker_pool
from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.jobs import Job, Progress, Result, Work, run_job
from gato.training.setup import enable_compilation_cache

Executor = Callable[[Sequence[Job], Work, int, Progress], Iterator[tuple[Job, Result]]]
EXECUTORS = ("local", "ray")

# One thread of arithmetic a worker: the small products of acting do not divide well, whole jobs do.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def get_executor(name: str) -> Executor:
    """The executor of one of the names `EXECUTORS`. Raises EvaluationError if its package is not installed."""
    if name == "local":
        return run_local
    module = importlib.import_module("gato.evaluation.ray_executor")
    module.import_ray()
    return module.run_on_ray


def run_local(jobs: Sequence[Job], work: Work, processes: int, advance: Progress) -> Iterator[tuple[Job, Result]]:
    """In this process, or in ``processes`` others.

    Raises:
      EvaluationError: a process died.
    """
    if processes == 1:
        for job in jobs:
            yield job, run_job(job, work, advance)
        return
    channel = multiprocessing.get_context("spawn").Queue()
    try:
        with worker_pool(processes, _start, (channel,)) as executor:
            waiting = {executor.submit(run_job, job, work, tell): job for job in jobs}
            yield from as_finished(waiting, channel, advance)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise EvaluationError(
            "a process of the evaluation died, most often for want of memory; the same command goes on, with a smaller "
            "--processes"
        ) from error


def _start(channel: Any) -> None:
    start_worker(channel)
    enable_compilation_cache()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
