"""Evaluates a run: the prompted agent in the simulators of its tasks, beside specialists, controls, random and expert.

Writes into ``<run>/evaluation``: ``summary.json`` (`scores`), ``episodes.jsonl`` (every single episode), ``gifs/`` (the
first episode of each task) and ``captions.json`` (samples with their pictures).
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.worker_process import as_finished, cores, start_worker, worker_pool
from gato.evaluation.demonstrations import EvaluationError, run_directory
from gato.evaluation.jobs import Job, Line, PlayJob, Written, plan_jobs, run_job, worker_agent
from gato.evaluation.report_pictures import png_uri, write_gif
from gato.evaluation.rollouts import Outcome
from gato.evaluation.scores import summarise, task_entry
from gato.training.checkpoint import find_checkpoint
from gato.training.setup import enable_compilation_cache

DOCUMENTS = 200
# One thread of arithmetic a worker: the small products of acting do not divide well, whole jobs do.
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
_channel: Any = None


def evaluate(
    run_dir: Path | str,
    tasks: Sequence[str] | None = None,
    episodes: int = 20,
    specialists: bool = True,
    seed: int = 0,
    out: Path | str | None = None,
    *,
    documents: int = DOCUMENTS,
    processes: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Plays all tasks of a run and scores them.

    Args:
      run_dir: run directory (its newest checkpoint) or one of its checkpoints.
      tasks: sources or tasks of the checkpoint; None: all.
      episodes: of each task and control, from seeds that no demonstration used.
      specialists: whether to train and play one specialist for each task.
      seed: another seed, other episodes.
      out: where the results go; None: ``<run>/evaluation``.
      documents: pictures to caption or to answer questions about, of each such source.
      processes: that play; None: one for each core, at most one for each job.
      progress: whether to show it on stderr.

    Returns:
      What ``summary.json`` holds.

    Raises:
      EvaluationError: nothing to play, or `out` holds results of tasks that are left out now and would be lost.
      CheckpointError, AgentError, StoreError, MissingSuiteError: see there.
    """
    if episodes < 1:
        raise EvaluationError(f"episodes must be at least 1, got {episodes}")
    started = time.monotonic()
    enable_compilation_cache()
    checkpoint, run = find_checkpoint(run_dir), run_directory(Path(run_dir).absolute())
    agent = worker_agent(checkpoint, seed)
    known = agent.meta.sources
    chosen = list(known) if tasks is None else list(dict.fromkeys(agent.source(name)[0] for name in tasks))
    folder = Path(out) if out is not None else run / "evaluation"
    _refuse_loss(folder, {name for source in chosen for name in (source, known[source].task)})
    processes = processes or cores()
    jobs = plan_jobs(
        dict(known), chosen, agent, episodes=episodes, documents=documents, specialists=specialists, processes=processes
    )
    if not jobs:
        raise EvaluationError(f"{run}: nothing to play or to caption among {', '.join(chosen) or 'its sources'}")
    results: list[tuple[Job, Any]] = []
    total = sum(job.episodes * len(job.lines) for job in jobs)
    with show_progress(total, "evaluating", progress) as show:

        def advance(count: int) -> None:
            show(count, "evaluating")

        for job, result in _run(jobs, min(processes, len(jobs)), checkpoint, run, seed, advance):
            results.append((job, result))
    summary = _summary(results, chosen, seed)
    summary |= {"checkpoint_step": agent.meta.step, "seed": seed, "seconds": time.monotonic() - started}
    _write_results(folder, summary, results)
    return summary


def _refuse_loss(folder: Path, names: set[str]) -> None:
    """Raises EvaluationError if `folder` holds results of tasks or sources that are not among `names`."""
    path = folder / "summary.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        lost = [name for name in (*before["tasks"], *before["captions"]) if name not in names]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path}: is no evaluation's summary ({error!r}); delete it or give --out DIR") from error
    if lost:
        raise EvaluationError(
            f"{folder}: holds results of {', '.join(lost[:3])}{' and more' if len(lost) > 3 else ''}, which this "
            "evaluation leaves out and would delete; give --out DIR for this one's"
        )


def _run(
    jobs: Sequence[Job], processes: int, checkpoint: Path, run: Path, seed: int, advance: Callable[[int], None]
) -> Iterator[tuple[Job, Any]]:
    """Results in the order in which jobs finish."""
    if processes == 1:
        for job in jobs:
            yield job, run_job(job, checkpoint, run, seed, advance)
        return
    channel = multiprocessing.get_context("spawn").Queue()
    try:
        with worker_pool(processes, _start, (channel,)) as executor:
            waiting = {executor.submit(_work, job, checkpoint, run, seed): job for job in jobs}
            yield from as_finished(waiting, channel, advance)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise EvaluationError(
            "a process of the evaluation died, most often for want of memory; run it again with a smaller --processes"
        ) from error


def _start(channel: Any) -> None:
    global _channel
    _channel = channel
    start_worker()
    enable_compilation_cache()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()


def _work(job: Job, checkpoint: Path, run: Path, seed: int) -> Any:
    return run_job(job, checkpoint, run, seed, _channel.put)


def _summary(results: Sequence[tuple[Job, Any]], sources: Sequence[str], seed: int) -> dict[str, Any]:
    played: dict[tuple[str, bool], list[Outcome]] = {}
    lines: dict[str, Line] = {}
    written: dict[str, Any] = {}
    for job, result in results:
        if isinstance(result, Written):
            written[result.source] = {key: value for key, value in result.scores.items() if key != "samples"}
            continue
        assert isinstance(job, PlayJob)
        lines |= {line.name: line for line in job.lines}
        for outcome in result:
            played.setdefault((outcome.entry, job.specialist), []).append(outcome)
    entries: dict[str, Any] = {}
    controls: dict[str, dict[str, Any]] = {}
    for line in sorted(lines.values(), key=lambda line: (sources.index(line.source), line.control)):
        task = get_task(line.task)
        scores = [outcome.score(task.metric) for outcome in played[line.name, False]]
        rival = [outcome.score(task.metric) for outcome in played.get((line.name, True), ())]
        entry = task_entry(
            scores, task.random_score, task.expert_score, metric=task.metric, specialist=rival or None, seed=seed
        )
        if line.control:
            entries[line.task].setdefault("controls", {})[line.control] = entry["score"]
            controls.setdefault(line.task, {})[line.control] = entry
        else:
            entry["mean_return"] = float(np.mean([outcome.score_return for outcome in played[line.name, False]]))
            entry["mean_steps"] = float(np.mean([outcome.steps for outcome in played[line.name, False]]))
            entries[line.task] = entry
    return {**summarise(entries), "controls": controls, "captions": written}


def _write_results(folder: Path, summary: dict[str, Any], results: Sequence[tuple[Job, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples, episodes = [], []
    for job, result in results:
        if isinstance(result, Written):
            for sample, picture in zip(result.scores["samples"], result.pictures, strict=True):
                about = {"source": result.source, "question": sample.get("question", "")}
                samples.append(
                    {"image": png_uri(picture), "expected": sample["reference"], "answer": sample["text"], **about}
                )
            continue
        for outcome in result:
            episodes.append(
                {
                    "policy": "specialist" if isinstance(job, PlayJob) and job.specialist else "agent",
                    "task": outcome.entry,
                    "seed": outcome.seed,
                    "return": outcome.score_return,
                    "success": outcome.success,
                    "steps": outcome.steps,
                }
            )
            if outcome.frames is not None:
                write_gif(outcome.frames, folder / "gifs" / f"{outcome.entry.replace('/', '__')}.gif")
    _write_text(folder / "captions.json", json.dumps({"samples": samples}))
    _write_text(folder / "episodes.jsonl", "".join(json.dumps(episode) + "\n" for episode in episodes))
    _write_text(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Atomically: a reader, or an interruption, never meets half a file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
