"""Collects sources: demonstrations of built-in experts and generated documents, one training store each.

A store is a pure function of (source, number of episodes, seed): every episode has its own generator, processes only
compute episodes, and this process writes them in order. Finished stores are kept, so an interrupted collection goes on
where it stopped, source by source; an unfinished store leaves nothing behind.
"""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import COLLECTION_SEED, DocumentSource, Environment, Task
from gato.data_pipelines.environments.registry import get_source
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.progress import Advance
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.data_pipelines.worker_process import worker_pool
from gato.tokenizers.errors import GatoError

# Steps that one job computes at most: small jobs balance the processes, and their episodes wait in memory.
_STEPS_PER_JOB = 2000
_JOBS_AHEAD = 4  # for each process


class CollectError(GatoError):
    """A collection cannot start or go on; finished stores are kept, nothing is half-written."""


@dataclasses.dataclass(frozen=True)
class CollectPlan:
    """One source to collect.

    Attributes:
      name: of a task ("metaworld/reach-v3") or of documents (see `registry.get_source`); also the store's folder.
      episodes: how many; documents may end earlier.
      max_steps: cut episodes after so many steps; None for the task's own limit. Where the expert holds a goal for most
        of a long episode, more and shorter episodes show more of the way there.
      seconds: expected CPU seconds; for the progress bar, and for what a quickstart's budget leaves to the training.
    """

    name: str
    episodes: int
    max_steps: int | None = None
    seconds: float = 10.0


def collect(
    plans: Sequence[CollectPlan],
    out_dir: str | os.PathLike[str],
    *,
    seed: int = 0,
    processes: int = 2,
    progress: bool = True,
) -> dict[str, Path]:
    """Collects every plan into ``out_dir/NAME``.

    Args:
      seed: another seed gives other episodes; never those of an evaluation.
      processes: that simulate, beside this one, which writes; 1 does everything here. The stores do not depend on it.
      progress: whether to show it on stderr.

    Returns:
      Name -> folder of its store, in the order of the plans.

    Raises:
      CollectError: the disk is full, a process died, or a folder holds another collection.
      UnknownTaskError, MissingSuiteError, ExpertError: see there.
    """
    out = Path(out_dir)
    folders = {plan.name: out / plan.name for plan in plans}
    if len(folders) < len(plans):
        names = [plan.name for plan in plans]
        raise CollectError(
            f"source {max(names, key=names.count)!r} is listed twice; give it once, with all its episodes"
        )
    for plan in plans:
        if plan.episodes < 1:
            raise CollectError(f"source {plan.name!r}: episodes must be at least 1, got {plan.episodes}")
        if plan.max_steps is not None and plan.max_steps < 1:
            raise CollectError(f"source {plan.name!r}: max_steps must be at least 1, got {plan.max_steps}")
        get_source(plan.name)
    if not 0 <= seed < COLLECTION_SEED:
        raise CollectError(f"seed must lie in 0..{COLLECTION_SEED - 1}, got {seed}; larger ones belong to evaluations")
    waiting = [plan for plan in plans if not _is_finished(folders[plan.name], plan, seed)]
    if not waiting:
        return folders
    seconds = sum(plan.seconds for plan in waiting)
    workers: contextlib.AbstractContextManager[concurrent.futures.Executor | None]
    workers = worker_pool(processes) if processes > 1 else contextlib.nullcontext()
    with show_progress(seconds, "collecting", progress) as advance, workers as executor:
        ahead = _JOBS_AHEAD * processes
        results = _in_order(executor, [job for plan in waiting for job in _jobs(plan, seed)], ahead)
        for plan in waiting:
            _write_store(plan, seed, folders[plan.name], results, advance)
    return folders


@dataclasses.dataclass(frozen=True)
class _Job:
    """Episodes ``start..stop-1`` of a source."""

    name: str
    start: int
    stop: int
    seed: int
    max_steps: int | None


def _jobs(plan: CollectPlan, seed: int) -> list[_Job]:
    source = get_source(plan.name)
    if isinstance(source, DocumentSource):
        size = plan.episodes
    else:
        size = max(1, _STEPS_PER_JOB // min(source.max_steps, plan.max_steps or source.max_steps))
    return [
        _Job(plan.name, at, min(at + size, plan.episodes), seed, plan.max_steps) for at in range(0, plan.episodes, size)
    ]


def _write_store(
    plan: CollectPlan, seed: int, folder: Path, results: Iterator[list[Episode]], advance: Advance
) -> None:
    source = get_source(plan.name)
    written = size = 0
    advance(0.0, plan.name)
    try:
        with StoreWriter(folder, plan.name, _spec(source), _metadata(source, plan, seed)) as writer:
            for job in _jobs(plan, seed):
                episodes = next(results)
                size += sum(_bytes(episode) for episode in episodes)
                written += len(episodes)
                for episode in episodes:
                    writer.write(episode)
                advance(plan.seconds * (job.stop - job.start) / plan.episodes, plan.name)
    except StoreError as error:
        if getattr(error.__cause__, "errno", None) != errno.ENOSPC and "disk is full" not in str(error):
            raise
        expected = size * plan.episodes / max(written, 1)
        raise CollectError(
            f"{folder}: the disk is full: {_free_bytes(folder) // 10**6} MB free, {plan.name} needs up to "
            f"{math.ceil(expected / 1e6)} MB. Free some space or choose another folder, then run the same command "
            "again; finished sources are kept"
        ) from error


def _in_order(executor: concurrent.futures.Executor | None, jobs: list[_Job], ahead: int) -> Iterator[list[Episode]]:
    """Results of the jobs in their order; at most ``ahead`` are under way, so that memory stays bounded."""
    if executor is None:
        yield from map(_run_job, jobs)
        return
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for job in jobs:
            pending.append(executor.submit(_run_job, job))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise CollectError(
            "a collecting process died (is the memory full?); run again with fewer processes, finished sources are kept"
        ) from error


# The environment that this process used last: building one takes longer than most episodes.
_last_environment: tuple[str, Environment] | None = None


@atexit.register
def _close_environment() -> None:
    """Before the interpreter goes: ALE complains at length about an instance that is left to it."""
    global _last_environment
    if _last_environment is not None:
        _last_environment[1].close()
        _last_environment = None


def _run_job(job: _Job) -> list[Episode]:
    global _last_environment
    source = get_source(job.name)
    if isinstance(source, DocumentSource):
        return list(source.episodes(job.stop, job.seed))
    if _last_environment is None or _last_environment[0] != job.name:
        if _last_environment is not None:
            _last_environment[1].close()
        _last_environment = job.name, source.make()
    environment = _last_environment[1]
    return [demonstration(source, environment, index, job.seed, job.max_steps) for index in range(job.start, job.stop)]


def _is_finished(folder: Path, plan: CollectPlan, seed: int) -> bool:
    """Whether this very collection is there already. Raises `CollectError` if the folder holds something else."""
    if not folder.exists():
        return False
    found = Store(folder).metadata
    wanted = {"requested_episodes": plan.episodes, "requested_max_steps": plan.max_steps, "seed": seed}
    different = [
        f"{key} {found.get(key)} instead of {value}" for key, value in wanted.items() if found.get(key) != value
    ]
    if different:
        raise CollectError(
            f"{folder}: holds another collection ({', '.join(different)}); delete the folder or choose another one"
        )
    return True


def _metadata(source: Task | DocumentSource, plan: CollectPlan, seed: int) -> dict[str, Any]:
    about = {
        "suite": plan.name.partition("/")[0],
        "task": plan.name,
        "agent": "generator" if isinstance(source, DocumentSource) else "expert",
        "requested_episodes": plan.episodes,
        "requested_max_steps": plan.max_steps,
        "seed": seed,
    }
    return about if isinstance(source, DocumentSource) else {**about, "metric": source.metric}


def _spec(source: Task | DocumentSource) -> Any:
    if isinstance(source, DocumentSource):
        return source.spec
    environment = source.make()
    try:
        return environment.spec
    finally:
        environment.close()


def _bytes(episode: Episode) -> int:
    arrays = [*episode.observations.values(), *episode.actions.values()]
    return sum(values.nbytes if isinstance(values, np.ndarray) else sum(map(len, values)) for values in arrays)


def _free_bytes(folder: Path) -> int:
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    return shutil.disk_usage(existing).free
