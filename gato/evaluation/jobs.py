"""The independent parts of an evaluation, each a job that one process does from start to end.

A job holds names and numbers only, so that it travels to a worker; the worker opens the checkpoint and the data once
and keeps them. Tasks of one embodiment (same spec, same window) form one batch of environments; so do their controls.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, DocumentSource, Task
from gato.data_pipelines.environments.registry import get_source, get_task
from gato.evaluation.captions import evaluate_captions, evaluate_questions
from gato.evaluation.demonstrations import Demonstrations, open_demonstrations
from gato.evaluation.rollouts import Entry, Outcome, plan_rows, rollout
from gato.evaluation.specialist import train_specialist
from gato.inference.agent import Agent
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint_meta import SourceMeta

# Environments that one process steps in a batch: enough for the matrix products, few enough to build quickly.
ROWS = 40
# A specialist's share of a job's time: its environment steps, and the training, in steps' worth.
SPECIALIST_STEP, SPECIALIST_TRAINING = 3.0, 60_000.0

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the evaluation: a source of the checkpoint, and the label of a control or ""."""

    source: str
    task: str
    control: str = ""

    @property
    def name(self) -> str:
        return f"{self.task} [{self.control}]" if self.control else self.task


@dataclasses.dataclass(frozen=True)
class PlayJob:
    """The agent, or (``specialist``) one specialist, plays some lines of one embodiment."""

    lines: tuple[Line, ...]
    episodes: int
    cost: float
    specialist: bool = False


@dataclasses.dataclass(frozen=True)
class WriteJob:
    """The agent captions pictures, or answers questions, of a document source."""

    source: str
    documents: int
    cost: float = 0.0

    @property
    def episodes(self) -> int:
        return self.documents

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.source,)


Job = PlayJob | WriteJob


@dataclasses.dataclass
class Written:
    """What a `WriteJob` gives: the scores, and pictures [n, H, W, C] of its samples."""

    source: str
    scores: dict[str, Any]
    pictures: np.ndarray


@functools.cache
def worker_agent(checkpoint: Path, seed: int) -> Agent:
    """The process's own agent."""
    return Agent.from_checkpoint(checkpoint, seed)


@functools.cache
def worker_demonstrations(run: Path) -> dict[str, Demonstrations]:
    return open_demonstrations(run)


def plan_jobs(
    sources: dict[str, SourceMeta],
    tasks: Sequence[str],
    agent: Agent,
    *,
    episodes: int,
    documents: int,
    specialists: bool,
    processes: int,
) -> list[Job]:
    """Jobs for the sources ``tasks``, the longest first.

    Args:
      sources: of the checkpoint. tasks: names in it.
      episodes: of each task and control. documents: pictures of each document source.
      processes: embodiments with much to play are divided until they fill the processes evenly.
    """
    groups: dict[tuple[Any, ...], list[tuple[Line, float]]] = {}
    jobs: list[Job] = []
    for name in tasks:
        meta = sources[name]
        if meta.spec.kind == "document":
            if any(leaf.modality == "image" for leaf in meta.spec.observations.values()):
                jobs.append(WriteJob(name, documents, cost=documents * 1000.0))
            continue
        task = get_task(meta.task)
        tokens = agent.tokenizer.tokens_per_timestep(meta.spec, text_tokens=8)
        cost = float(episodes * task.max_steps * tokens)
        key = (repr(meta.spec), meta.window_timesteps, meta.prompt_timesteps)
        group = groups.setdefault(key, [])
        group += [(Line(name, meta.task, control), cost) for control in ("", *task.controls)]
        if specialists:
            spent = SPECIALIST_STEP * episodes * task.max_steps + SPECIALIST_TRAINING
            jobs.append(PlayJob((Line(name, meta.task),), episodes, spent, specialist=True))
    total = sum(cost for group in groups.values() for _, cost in group)
    for group in groups.values():
        cost = sum(cost for _, cost in group)
        parts = min(len(group), max(1, math.ceil(cost / (total / processes / 2)))) if processes > 1 else 1
        for part in range(parts):
            chosen = group[part::parts]
            jobs.append(PlayJob(tuple(line for line, _ in chosen), episodes, sum(cost for _, cost in chosen)))
    return sorted(jobs, key=lambda job: -job.cost)


def run_job(job: Job, checkpoint: Path, run: Path, seed: int, progress: Progress) -> list[Outcome] | Written:
    """Does one job; ``progress(n)`` after n more episodes or documents."""
    if isinstance(job, WriteJob):
        return _write(job, worker_agent(checkpoint, seed), seed, progress)
    return _play(job, checkpoint, run, seed, progress)


def _play(job: PlayJob, checkpoint: Path, run: Path, seed: int, progress: Progress) -> list[Outcome]:
    demonstrations = worker_demonstrations(run)
    entries = [_entry(line, get_task(line.task), job) for line in job.lines]
    rows = plan_rows(entries, ROWS)
    if job.specialist:
        source = demonstrations[job.lines[0].source]
        policy: Any = train_specialist(source.store, source.train, seed)
    else:
        policy = worker_agent(checkpoint, seed)
        prompts = {
            index: iter(demonstrations[line.source].prompts(rows.count(index))) for index, line in enumerate(job.lines)
        }
        policy.reset(
            sources=[job.lines[index].source for index in rows], prompts=[next(prompts[index]) for index in rows]
        )
    return rollout(policy, entries, rows, seed, lambda name: progress(1))


def _entry(line: Line, task: Task, job: PlayJob) -> Entry:
    options = dict(task.controls[line.control]) if line.control else {}
    return Entry(
        name=line.name,
        make=functools.partial(task.make, **options),
        metric=task.metric,
        episodes=job.episodes,
        max_steps=task.max_steps,
        film=0 if line.control or job.specialist else 1,
    )


def _write(job: WriteJob, agent: Agent, seed: int, progress: Progress) -> Written:
    """Documents that training never saw: the source's own, drawn from an evaluation seed."""
    source = get_source(job.source)
    assert isinstance(source, DocumentSource)
    episodes = list(source.episodes(job.documents, EVALUATION_SEED + seed))
    values = {path: [episode.observations[path][0] for episode in episodes] for path in source.spec.observations}
    *given, written = source.spec.observations
    image = next(path for path in given if source.spec.observations[path].modality == "image")
    begin = ""
    if given == [image] and agent.tokenizer.text is not None:
        begin = common_beginning([e.observations[written][0] for e in source.episodes(50, seed)], agent.tokenizer.text)

    def generate(images: np.ndarray, questions: Sequence[str] | None) -> list[str]:
        documents = {path: images if path == image else questions for path in given}
        texts = agent.generate(job.source, documents, begin=begin)  # type: ignore[arg-type]
        progress(len(texts) // 2)
        return texts

    images = np.stack(values[image])
    if given == [image]:
        scores = evaluate_captions(generate, images, values[written], seed)
    else:
        scores = evaluate_questions(generate, images, values[given[-1]], values[written], seed)
    return Written(job.source, scores, images[: len(scores["samples"])])


def common_beginning(texts: Sequence[str], tokenizer: TextTokenizer) -> str:
    """The pieces with which all texts begin, e.g. "a" of captions: where sources share pictures, they say what is
    asked.
    """
    ids = [tokenizer.encode(text) for text in texts]
    shared = 0
    while all(len(row) > shared + 1 for row in ids) and len({int(row[shared]) for row in ids}) == 1:
        shared += 1
    begin = tokenizer.decode(ids[0][:shared])
    return begin if np.array_equal(tokenizer.encode(begin), ids[0][:shared]) else ""
