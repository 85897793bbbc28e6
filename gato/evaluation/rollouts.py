"""Episodes in parallel environments: many simulators in one process, stepped in a batch, one call of the policy a step.

A *row* of the batch holds one environment of one task. It plays that task's episodes one after the other until the
task's seeds are used up; so few environments (which are slow to build) play many episodes. Rows that have nothing left
to play are no longer stepped, and leave the batch once two thirds of it are idle: shapes change rarely, not at every
  step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, Action, Environment, Observation
from gato.data_pipelines.episode import check_step

# Seeds of two evaluation runs lie so far apart; more episodes of one task than this would overlap.
SEEDS_PER_RUN = 10_000
# A smaller batch is a new compilation, which costs as much as some hundred steps: worth it only for a large difference.
SMALL_BATCH, SHRINK = 12, 3
MAX_FRAMES = 100


class BatchPolicy(Protocol):
    """What `rollout` needs of an agent or a specialist, whose rows have been prepared (prompts, conditioning)."""

    def act(self, observations: Sequence[Observation], rewards: np.ndarray | None = None) -> list[Action]:
        """Actions for the observations of all rows; ``rewards`` [rows] followed the previous actions."""

    def restart(self, rows: Sequence[int]) -> None:
        """New episodes begin in ``rows``: forget the past ones."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows; row ``rows[i]`` becomes row i."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the evaluation: a task, or a task under a control.

    Attributes:
      metric: "success" or "return". Success counts at any step within the limit, so an episode that is scored by
        success ends there; its return is that of the steps until then.
      film: the first so many episodes are filmed.
    """

    name: str
    make: Callable[[], Environment]
    metric: str
    episodes: int
    max_steps: int
    film: int = 0


@dataclasses.dataclass
class Outcome:
    """One finished episode. ``success`` is None where the environment does not say; ``frames`` uint8 [n, H, W, 3]."""

    entry: str
    seed: int
    score_return: float
    success: bool | None
    steps: int
    frames: np.ndarray | None = None

    def score(self, metric: str) -> float:
        """The episode's score: its return, or 1.0 / 0.0 for success."""
        return self.score_return if metric == "return" else float(bool(self.success))


def plan_rows(entries: Sequence[Entry], rows: int) -> list[int]:
    """Entry index of every row: about ``rows`` in all, the same number for each entry, at most its ``episodes``."""
    share = max(1, math.ceil(rows / max(1, len(entries))))
    return [index for index, entry in enumerate(entries) for _ in range(min(share, entry.episodes))]


def rollout(
    policy: BatchPolicy,
    entries: Sequence[Entry],
    rows: Sequence[int],
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Plays all episodes of all entries.

    Args:
      policy: its row i acts in an environment of ``entries[rows[i]]``.
      entries: environments of one embodiment (the policy sees their observations in one batch).
      rows: entry index of every row, see `plan_rows`.
      seed: number of the evaluation run; episode k of an entry starts from seed 1_000_000 + seed * 10_000 + k.
      progress: called with the entry's name after each episode.

    Returns:
      One outcome an episode, ordered by entry and seed.

    Raises:
      SpecError: an observation does not match its environment's spec; names the task, the step and the leaf.
    """
    first = EVALUATION_SEED + seed * SEEDS_PER_RUN
    waiting = [list(range(first + entry.episodes - 1, first - 1, -1)) for entry in entries]
    runners = [_Runner(entries[index], waiting[index]) for index in rows]
    outcomes: list[Outcome] = []
    try:
        for runner in runners:
            runner.start()
        batch = list(runners)
        rewards: np.ndarray | None = None
        while batch:
            actions = policy.act([runner.observation for runner in batch], rewards)
            rewards = np.zeros(len(batch), np.float32)
            restarted = []
            for i, (runner, action) in enumerate(zip(batch, actions, strict=True)):
                if not runner.active:
                    continue
                rewards[i], outcome = runner.step(action)
                if outcome is not None:
                    outcomes.append(outcome)
                    if progress is not None:
                        progress(outcome.entry)
                    if runner.start():
                        restarted.append(i)
                        rewards[i] = 0.0
            if restarted:
                policy.restart(restarted)
            kept = [i for i, runner in enumerate(batch) if runner.active]
            if not kept or (len(batch) > SMALL_BATCH and len(kept) <= len(batch) // SHRINK):
                batch = [batch[i] for i in kept]
                rewards = rewards[kept]
                if kept:
                    policy.keep(kept)
    finally:
        for runner in runners:
            runner.environment.close()
    order = {entry.name: i for i, entry in enumerate(entries)}
    return sorted(outcomes, key=lambda outcome: (order[outcome.entry], outcome.seed))


class _Runner:
    """One environment and the episode that is being played in it."""

    def __init__(self, entry: Entry, waiting: list[int]) -> None:
        self.entry, self.waiting = entry, waiting
        self.environment = entry.make()
        self.observation: Observation = {}
        self.active = False
        self.film: _Film | None = None

    def start(self) -> bool:
        """Starts the task's next episode, if there is one."""
        self.active = bool(self.waiting)
        if self.active:
            self.seed = self.waiting.pop()
            self.total, self.steps = 0.0, 0
            self._observe(self.environment.reset(self.seed))
            self.success: bool | None = None
            self.film = _Film() if (self.seed - EVALUATION_SEED) % SEEDS_PER_RUN < self.entry.film else None
            if self.film is not None:
                self.film.add(self.environment)
        return self.active

    def _observe(self, observation: Observation) -> None:
        where = f"{self.entry.name}: seed {self.seed}: step {self.steps}: observation"
        check_step(observation, self.environment.spec.observations, where)
        self.observation = observation

    def step(self, action: Action) -> tuple[float, Outcome | None]:
        """Executes one action; returns the reward and, at the end of the episode, its outcome."""
        observation, reward, terminated, truncated, info = self.environment.step(action)
        self.total += float(reward)
        self.steps += 1
        self._observe(observation)
        if "success" in info:
            self.success = bool(self.success) or bool(info["success"])
        if self.film is not None:
            self.film.add(self.environment)
        solved = bool(self.success) and self.entry.metric == "success"
        if not (terminated or truncated or solved or self.steps >= self.entry.max_steps):
            return float(reward), None
        frames = self.film.frames() if self.film is not None else None
        return float(reward), Outcome(self.entry.name, self.seed, self.total, self.success, self.steps, frames)


class _Film:
    """At most `MAX_FRAMES` evenly spaced frames of an episode of unknown length: when full, every second one goes."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._every, self._seen = 1, 0

    def add(self, environment: Environment) -> None:
        if self._seen % self._every == 0:
            if len(self._kept) == MAX_FRAMES:
                self._kept = self._kept[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self._kept.append(np.asarray(environment.frame(), np.uint8))
        self._seen += 1

    def frames(self) -> np.ndarray:
        return np.stack(self._kept)
