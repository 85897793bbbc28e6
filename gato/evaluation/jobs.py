"""The independent parts of an evaluation, each a job that one process does from start to end.

A job holds names and numbers only, so that it travels to a worker; the worker opens the checkpoint and the data once
and keeps them. Tasks of one embodiment (same spec, same window) form one batch of environments; so do their controls.
What a job gives depends on the job and the `Protocol` alone: not on which process did it, nor on what it did before.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, Action, DocumentSource, Observation, Task
from gato.data_pipelines.environments.registry import get_source, get_task
from gato.evaluation.captions import evaluate_captions, evaluate_questions
from gato.evaluation.demonstrations import Demonstrations, EvaluationError, open_demonstrations
from gato.evaluation.prompts import PromptSource
from gato.evaluation.rollouts import PROMPTS, SEEDS_PER_RUN, Entry, Outcome, Seat, plan_seats, rollout
from gato.evaluation.simulators import STEP_SECONDS, InProcess, InProcesses, Place, Simulators, make_environment
from gato.evaluation.specialist import train_specialist
from gato.inference.agent import Agent
from gato.inference.memory import Mode
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta

# Environments of a batch: enough for the matrix products, few enough to build quickly.
ENVIRONMENTS = 40
# Lines of one job at most, and about so many tokens (if no episode ended early): what an interruption can lose, and
# how finely the work can be divided. Eight tasks of Meta-World are far below; a game of Atari is divided by episodes,
# into halves that still make large batches.
LINES, COST = 8, 20e6
# Simulators take seeds below this: ALE's are signed 32-bit integers, dm_control's unsigned ones.
_SEEDS = 2**31
# A specialist's share of a job's time: its environment steps, and the training, in steps' worth.
SPECIALIST_STEP, SPECIALIST_TRAINING = 3.0, 60_000.0

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the results of an evaluation, beside the checkpoint, the tasks and their prompts.

    Attributes:
      episodes: of each task and control, from seeds that no demonstration used (the paper: 50).
      prompt: which end of a demonstration is shown (the paper: the beginning), or "none".
      prompt_tokens: so many tokens of it (the paper: 1,024), in whole timesteps; None: as many as prompts had in
        training.
      memory: what a full row sees, see `gato.inference.memory`: as in training, or (the paper) Transformer-XL memory.
      environments: of a batch at most.
      documents: pictures to caption or to answer questions about, of each such source.
      seed: another seed, other episodes.
      temperature, top_k, top_p: how actions and texts are drawn, see `Agent.reset`; None: as the recipe says.
    """

    episodes: int = 50
    prompt: Literal["beginning", "end", "none"] = "beginning"
    prompt_tokens: int | None = None
    memory: Mode = "window"
    environments: int = ENVIRONMENTS
    documents: int = 200
    seed: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.episodes > SEEDS_PER_RUN:
            raise EvaluationError(
                f"episodes must be at most {SEEDS_PER_RUN:,} of a task, got {self.episodes:,}: the rest would be those "
                "of the next seed"
            )
        most = (_SEEDS - EVALUATION_SEED - self.episodes) // SEEDS_PER_RUN
        if not 0 <= self.seed <= most:
            raise EvaluationError(
                f"seed must lie in 0..{most:,}, got {self.seed}: simulators do not take the seeds of its episodes"
            )

    @property
    def sampling(self) -> dict[str, Any]:
        """What `Agent.reset` and `Agent.generate` are told of it."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}


@dataclasses.dataclass(frozen=True)
class Work:
    """What every job of an evaluation needs; travels to the workers.

    Attributes:
      run: whose data specialists are trained on.
      prompts: task -> its demonstrations.
      simulators: processes for the environments of a worker; 0: they share its own.
      step_seconds: before an environment counts as hanging.
    """

    checkpoint: Path
    run: Path
    protocol: Protocol
    prompts: Mapping[str, PromptSource] = dataclasses.field(default_factory=dict)
    simulators: int = 0
    step_seconds: float = STEP_SECONDS


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Something to evaluate.

    Attributes:
      source: of the checkpoint, which says how the agent acts; "" for a new embodiment.
      task: to be played; "" for documents.
      meta: of the source, or what is known of the new embodiment.
    """

    source: str
    task: str
    meta: SourceMeta


@dataclasses.dataclass(frozen=True)
class Line:
    """Episodes of one line of the evaluation.

    Attributes:
      source: how the agent acts, see `Chosen`.
      control: its label, or "".
      start, episodes: number of the first episode, and how many there are from it on.
    """

    source: str
    task: str
    control: str
    start: int
    episodes: int

    @property
    def name(self) -> str:
        return f"{self.task} [{self.control}]" if self.control else self.task


@dataclasses.dataclass(frozen=True)
class PlayJob:
    """The agent, or (``specialist``) one specialist, plays some lines of one embodiment."""

    lines: tuple[Line, ...]
    cost: float
    specialist: bool = False


@dataclasses.dataclass(frozen=True)
class WriteJob:
    """The agent captions pictures, or answers questions, of a document source."""

    source: str
    cost: float = 0.0


Job = PlayJob | WriteJob


def size(job: Job, protocol: Protocol) -> int:
    """Episodes or documents of a job, for the progress."""
    return sum(line.episodes for line in job.lines) if isinstance(job, PlayJob) else protocol.documents


@dataclasses.dataclass
class Written:
    """What a `WriteJob` gives: the scores, and pictures [n, H, W, C] of its samples."""

    source: str
    scores: dict[str, Any]
    pictures: np.ndarray


Result = list[Outcome] | Written


@functools.cache
def worker_agent(checkpoint: Path) -> Agent:
    """The process's own agent."""
    return Agent.from_checkpoint(checkpoint)


@functools.cache
def worker_demonstrations(run: Path) -> dict[str, Demonstrations]:
    return open_demonstrations(run, missing="skip")


def plan_jobs(
    chosen: Sequence[Chosen], meta: CheckpointMeta, protocol: Protocol, specialists: Sequence[str]
) -> list[Job]:
    """Jobs, the longest first. They do not depend on the processes that will do them.

    Args:
      specialists: the sources that get one.
    """
    text = TextTokenizer(meta.text_model)
    tokenizer = SequenceTokenizer(meta.vocabulary, text, meta.layout, meta.model.local_positions)
    groups: dict[tuple[Any, ...], list[tuple[Line, float]]] = {}
    jobs: list[Job] = []
    for choice in chosen:
        source = choice.meta
        if source.spec.kind == "document":
            jobs.append(WriteJob(choice.source, cost=protocol.documents * 1000.0))
            continue
        task = get_task(choice.task)
        tokens = tokenizer.tokens_per_timestep(source.spec, text_tokens=8)
        key = (repr(source.spec), source.window_timesteps, source.prompt_timesteps, bool(choice.source))
        group = groups.setdefault(key, [])
        for control in ("", *task.controls):
            line = Line(choice.source, choice.task, control, 0, protocol.episodes)
            group += _divided(line, float(task.max_steps * tokens))
        if choice.source in specialists:
            spent = SPECIALIST_STEP * protocol.episodes * task.max_steps + SPECIALIST_TRAINING
            line = Line(choice.source, choice.task, "", 0, protocol.episodes)
            jobs.append(PlayJob((line,), spent, specialist=True))
    for group in groups.values():
        affordable = max(1, int(COST / max(cost for _, cost in group)))
        parts = math.ceil(len(group) / min(LINES, affordable))
        for part in range(parts):
            lines = group[part::parts]
            jobs.append(PlayJob(tuple(line for line, _ in lines), sum(cost for _, cost in lines)))
    return sorted(jobs, key=lambda job: -job.cost)


def _divided(line: Line, episode: float) -> list[tuple[Line, float]]:
    """The line, by episodes where all of them cost more than a job may; each with its cost. ``episode``: of one.

    It is cut where the demonstrations begin anew, so that every episode is shown the same one as in an undivided line.
    """
    rounds = math.ceil(line.episodes / PROMPTS)
    parts = min(rounds, math.ceil(line.episodes * episode / COST))
    cuts = [min(part * rounds // parts * PROMPTS, line.episodes) for part in range(parts + 1)]
    lines = [
        dataclasses.replace(line, start=line.start + start, episodes=stop - start)
        for start, stop in itertools.pairwise(cuts)
    ]
    return [(part, part.episodes * episode) for part in lines]


def run_job(job: Job, work: Work, progress: Progress) -> Result:
    """Does one job; ``progress(n)`` after n more episodes or documents."""
    if isinstance(job, WriteJob):
        return _write(job, _fresh_agent(work), work.protocol, progress)
    entries = [_entry(line, get_task(line.task), job) for line in job.lines]
    batches = plan_seats(entries, work.protocol.environments)
    start: Callable[[Sequence[Place]], Simulators] = InProcess
    if work.simulators:
        start = functools.partial(InProcesses, processes=work.simulators, step_seconds=work.step_seconds)
    outcomes: list[Outcome] = []
    for seats, policy in zip(batches, _policies(job, work, batches), strict=True):
        outcomes += rollout(policy, entries, seats, work.protocol.seed, lambda name: progress(1), start)
    order = {line.name: place for place, line in enumerate(job.lines)}
    return sorted(outcomes, key=lambda outcome: (order[outcome.entry], outcome.seed))


def _policies(job: PlayJob, work: Work, batches: Sequence[Sequence[Seat]]) -> Iterator[Any]:
    """For each batch what acts in it, its rows prepared."""
    if job.specialist:
        source = worker_demonstrations(work.run)[job.lines[0].source]
        specialist = train_specialist(source.store, source.train, work.protocol.seed)
        yield from (specialist for _ in batches)
        return
    agent = _fresh_agent(work)
    prompts = [work.prompts.get(line.task, PromptSource()).load() for line in job.lines]
    known = job.lines[0].source != ""
    spec = None if known else environment_spec(job.lines[0].task)
    for seats in batches:
        agent.reset(
            sources=[job.lines[seat.entry].source for seat in seats] if known else None,
            spec=spec,
            batch=len(seats),
            prompts=[prompts[seat.entry][seat.prompt % len(prompts[seat.entry])] for seat in seats],
            prompt_tokens=work.protocol.prompt_tokens,
            prompt_part="end" if work.protocol.prompt == "end" else "beginning",
            memory=work.protocol.memory,
            **work.protocol.sampling,
        )
        yield ActingAgent(agent)


class ActingAgent:
    """An agent whose batch was reset, as `rollout` wants it: it also says how sure it was."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.entropies: np.ndarray | None = None

    def act(self, observations: Sequence[Observation], rewards: np.ndarray | None = None) -> list[Action]:
        actions = self._agent.act(observations, rewards)
        self.entropies = np.asarray(_entropies(self._agent.logits))
        return [action for action in actions if action is not None]  # every row acts

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        self._agent.restart(rows, seeds)

    def keep(self, rows: Sequence[int]) -> None:
        self._agent.keep(rows)


@jax.jit
def _entropies(logits_BAV: jax.Array) -> jax.Array:
    """Entropy of the network's own distribution (temperature 1) over the legal ids, nats a token: float32 [B]."""
    log_BAV = jax.nn.log_softmax(logits_BAV)
    return -jnp.sum(jnp.exp(log_BAV) * log_BAV, axis=-1).mean(axis=-1)


def environment_spec(task: str) -> Any:
    """The spec of a task's environment."""
    environment = make_environment(task, {})
    try:
        return environment.spec
    finally:
        environment.close()


def _fresh_agent(work: Work) -> Agent:
    """An agent that has not drawn anything yet, so that a job gives the same wherever and whenever it is done."""
    shared = worker_agent(work.checkpoint)
    return Agent(shared.params, shared.meta, work.protocol.seed)


def _entry(line: Line, task: Task, job: PlayJob) -> Entry:
    return Entry(
        name=line.name,
        make=functools.partial(make_environment, line.task, dict(task.controls[line.control]) if line.control else {}),
        metric=task.metric,
        episodes=line.episodes,
        max_steps=task.max_steps,
        film=0 if line.control or job.specialist else 1,
        start=line.start,
    )


def _write(job: WriteJob, agent: Agent, protocol: Protocol, progress: Progress) -> Written:
    """Documents that training never saw: the source's own, drawn from an evaluation seed."""
    source, seed = get_source(job.source), protocol.seed
    assert isinstance(source, DocumentSource)
    episodes = list(source.episodes(protocol.documents, EVALUATION_SEED + seed))
    values = {path: [episode.observations[path][0] for episode in episodes] for path in source.spec.observations}
    *given, written = source.spec.observations
    image = next(path for path in given if source.spec.observations[path].modality == "image")
    begin = ""
    if given == [image] and agent.tokenizer.text is not None:
        begin = common_beginning([e.observations[written][0] for e in source.episodes(50, seed)], agent.tokenizer.text)

    def generate(images: np.ndarray, questions: Sequence[str] | None) -> list[str]:
        documents = {path: images if path == image else questions for path in given}
        texts = agent.generate(job.source, documents, begin=begin, **protocol.sampling)  # type: ignore[arg-type]
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
