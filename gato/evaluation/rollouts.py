"""Episodes in parallel environments: one call of the policy a step for all of them.

A *seat* of the batch is one environment of one task, which plays its share of the task's episodes one after the other;
so few environments (which are slow to build) play many episodes. Which seat plays which episode is fixed beforehand:
neither the size of the batch nor how fast others play decides what an episode is. Seats that have nothing left to play
are no longer stepped, and leave the batch once two thirds of it are idle: shapes change rarely, not at every step.

An environment that fails (`simulators.Failure`) is built anew and its episode repeated from its seed. An episode that
fails `ATTEMPTS` times through its own environment is *lost*: it has no score, and counts nowhere but among the lost
ones. A task that loses `GIVE_UP` episodes in a row loses the rest as well.
"""

from __future__ import annotations

import collections
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, Action, Environment, Observation
from gato.evaluation.film import Film
from gato.evaluation.simulators import Answer, Begin, Command, Failure, InProcess, Place, Simulators, Step

# Seeds of two evaluation runs lie so far apart; more episodes of one task than this would overlap.
SEEDS_PER_RUN = 10_000
# A smaller batch is a new compilation, which costs as much as some hundred steps: worth it only for a large difference.
SMALL_BATCH, SHRINK = 12, 3
ATTEMPTS, GIVE_UP = 3, 3
# Demonstrations that a task's episodes take turns with. The number of its seats is a multiple, or that of its episodes:
# so episode k is shown demonstration k % PROMPTS, however many seats there are.
PROMPTS = 4


class BatchPolicy(Protocol):
    """What `rollout` needs of an agent or a specialist, whose rows have been prepared (prompts, conditioning).

    Attributes:
      entropies: float [rows], of the distributions that the last actions were drawn from, in nats a token; or None.
    """

    entropies: np.ndarray | None

    def act(self, observations: Sequence[Observation], rewards: np.ndarray | None = None) -> list[Action]:
        """Actions for the observations of all rows; ``rewards`` [rows] followed the previous actions."""

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """New episodes begin in ``rows``: forget the past ones; what is drawn depends on the episode's seed."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows; row ``rows[i]`` becomes row i."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the evaluation: a task, or a task under a control.

    Attributes:
      metric: "success" or "return". Success counts at any step within the limit, so an episode that is scored by
        success ends there; its return is that of the steps until then.
      start: number of the first of its ``episodes``, a multiple of `PROMPTS`.
      film: the episodes with a smaller number than this are filmed.
    """

    name: str
    make: Callable[[], Environment]
    metric: str
    episodes: int
    max_steps: int
    film: int = 0
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Seat:
    """Environment ``number`` of the ``of`` that share an entry; from the entry's first episode on it plays the
    number-th, the (number + of)-th, ...
    """

    entry: int
    number: int = 0
    of: int = 1

    @property
    def prompt(self) -> int:
        """Which of the task's demonstrations its episodes are shown."""
        return self.number % PROMPTS


@dataclasses.dataclass
class Outcome:
    """One episode that was finished or lost.

    Attributes:
      success: None where the environment does not say.
      entropy: mean over the steps of `BatchPolicy.entropies`, where the policy has it.
      failures: kind of `Failure` -> how often the episode was repeated because of one.
      lost: why there is no score; "" where there is one.
      no_film: why there is none, where there should be one.
      frames: uint8 [n, H, W, 3] if it was filmed.
    """

    entry: str
    seed: int
    score_return: float = 0.0
    success: bool | None = None
    steps: int = 0
    entropy: float | None = None
    failures: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lost: str = ""
    no_film: str = ""
    frames: np.ndarray | None = None

    def score(self, metric: str) -> float:
        """The episode's score: its return, or 1.0 / 0.0 for success."""
        return self.score_return if metric == "return" else float(bool(self.success))


def plan_seats(entries: Sequence[Entry], environments: int) -> list[list[Seat]]:
    """The seats of all entries, in batches of at most ``environments``, the same number for each entry."""
    share = max(PROMPTS, environments // max(1, len(entries)) // PROMPTS * PROMPTS)
    seats = [
        Seat(index, number, min(share, entry.episodes))
        for index, entry in enumerate(entries)
        for number in range(min(share, entry.episodes))
    ]
    return [seats[at : at + environments] for at in range(0, len(seats), environments)]


def rollout(
    policy: BatchPolicy,
    entries: Sequence[Entry],
    seats: Sequence[Seat],
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    start: Callable[[Sequence[Place]], Simulators] = InProcess,
) -> list[Outcome]:
    """Plays the episodes of all seats.

    Args:
      policy: its row i acts in an environment of ``entries[seats[i].entry]``.
      entries: environments of one embodiment (the policy sees their observations in one batch).
      seats: one batch of `plan_seats`.
      seed: number of the evaluation run; episode k of an entry starts from seed 1_000_000 + seed * 10_000 + k.
      progress: called with the entry's name after each episode.
      start: opens the environments.

    Returns:
      One outcome an episode, ordered by entry and seed.

    Raises:
      SpecError: an observation does not match its environment's spec; names the task, the step and the leaf.
    """
    simulators = start([Place(entries[seat.entry].name, entries[seat.entry].make) for seat in seats])
    try:
        outcomes = _Rollout(policy, entries, seats, seed, progress, simulators).play()
    finally:
        simulators.close()
    order = {entry.name: i for i, entry in enumerate(entries)}
    return sorted(outcomes, key=lambda outcome: (order[outcome.entry], outcome.seed))


class _Rollout:
    """The state of one call of `rollout`."""

    def __init__(
        self,
        policy: BatchPolicy,
        entries: Sequence[Entry],
        seats: Sequence[Seat],
        seed: int,
        progress: Callable[[str], None] | None,
        simulators: Simulators,
    ) -> None:
        self._policy, self._simulators, self._progress = policy, simulators, progress
        first = EVALUATION_SEED + seed * SEEDS_PER_RUN
        tasks = [_Task(entry, first) for entry in entries]
        self._rows = [_Row(tasks[seat.entry], place, seat) for place, seat in enumerate(seats)]
        self._outcomes: list[Outcome] = []

    def play(self) -> list[Outcome]:
        batch = list(self._rows)
        begun = self._begin([row for row in batch if self._next(row)])
        rewards = np.zeros(len(batch), np.float32)
        batch, rewards = self._shrink(batch, rewards, always=True)
        self._restart(batch, begun)
        first = True
        while batch:
            actions = self._policy.act([row.observation for row in batch], None if first else rewards)
            first = False
            steps: dict[int, Command] = {
                row.place: Step(action) for row, action in zip(batch, actions, strict=True) if row.active
            }
            for row, entropy in zip(batch, self._policy.entropies if self._policy.entropies is not None else ()):
                if np.isfinite(entropy):  # a network that is damaged has none, and its episodes count all the same
                    row.entropies.append(float(entropy))
            rewards, begun = self._take(batch, self._simulators.exchange(steps))
            self._restart(batch, begun)
            batch, rewards = self._shrink(batch, rewards)
        return self._outcomes

    def _take(self, batch: Sequence[_Row], answers: Mapping[int, Answer | Failure]) -> tuple[np.ndarray, list[_Row]]:
        """Rewards [batch] of a step (0 where an episode begins), and the rows whose next episode has begun."""
        rewards = np.zeros(len(batch), np.float32)
        ready = []
        for i, row in enumerate(batch):
            answer = answers.get(row.place)
            if not row.active or answer is None:
                continue
            if isinstance(answer, Failure):
                if self._fail(row, answer):
                    ready.append(row)
                continue
            outcome = row.step(answer)
            if outcome is None:
                rewards[i] = answer.reward
            else:
                self._end(outcome)
                if self._next(row):
                    ready.append(row)
        begun = self._begin(ready)
        rewards[[row in begun for row in batch]] = 0.0  # also where an episode began anew beside another one
        return rewards, begun

    def _begin(self, ready: Sequence[_Row]) -> list[_Row]:
        """Begins the episodes of these rows, again where that fails; returns all that begun and may act.

        Rows that stand beside one that fails begin their episode anew, too.
        """
        begun: dict[int, _Row] = {}
        while ready:
            answers = self._simulators.exchange({row.place: row.begin() for row in ready})
            failed = []
            for place, answer in answers.items():
                row = self._rows[place]
                if isinstance(answer, Answer):
                    row.show(answer)
                    begun[place] = row
                elif row.active and self._fail(row, answer):
                    failed.append(row)
            ready = failed
        return [row for row in begun.values() if row.active]

    def _restart(self, batch: Sequence[_Row], begun: Sequence[_Row]) -> None:
        rows = [i for i, row in enumerate(batch) if row in begun]
        if rows:
            self._policy.restart(rows, [batch[i].drawing_seed for i in rows])

    def _shrink(self, batch: list[_Row], rewards: np.ndarray, always: bool = False) -> tuple[list[_Row], np.ndarray]:
        """The batch without its idle rows, if they are enough to be worth it."""
        kept = [i for i, row in enumerate(batch) if row.active]
        small = len(batch) > SMALL_BATCH and len(kept) <= len(batch) // SHRINK
        if len(kept) == len(batch) or (kept and not small and not always):
            return batch, rewards
        if kept:
            self._policy.keep(kept)
        return [batch[i] for i in kept], rewards[kept]

    def _next(self, row: _Row) -> bool:
        """Whether the row has another episode to play; where its task has given up, the rest is lost."""
        while row.advance():
            if not row.task.gave_up:
                return True
            self._end(row.lose(row.task.gave_up))
        return False

    def _fail(self, row: _Row, failure: Failure) -> bool:
        """Whether the row has an episode to begin: the same one again, or, when that is lost, its next one."""
        if row.repeat(failure):
            return True
        row.task.lose(failure.reason)
        self._end(row.lose(f"{failure.kind}: {failure.reason}"))
        return self._next(row)

    def _end(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._progress is not None:
            self._progress(outcome.entry)


class _Task:
    """What the seats of one entry share: the first seed, and how many episodes in a row were lost."""

    def __init__(self, entry: Entry, first: int) -> None:
        self.entry, self.first = entry, first
        self.gave_up = ""
        self._lost = 0

    def lose(self, reason: str) -> None:
        self._lost += 1
        if self._lost >= GIVE_UP:
            self.gave_up = f"not tried: {GIVE_UP} episodes in a row were lost ({reason})"

    def finish(self) -> None:
        self._lost = 0


class _Row:
    """One seat and the episode that is being played in it."""

    def __init__(self, task: _Task, place: int, seat: Seat) -> None:
        self.task, self.place = task, place
        first = task.first + task.entry.start
        self._waiting = collections.deque(range(first + seat.number, first + task.entry.episodes, seat.of))
        self.observation: Observation = {}
        self.active = False

    @property
    def drawing_seed(self) -> int:
        """Of what the policy draws in this episode, in [0, 2**32)."""
        return zlib.crc32(f"{self.task.entry.name} {self.seed}".encode())

    def advance(self) -> bool:
        """Turns to the next episode, if there is one."""
        self.active = bool(self._waiting)
        if self.active:
            self.seed = self._waiting.popleft()
            self._attempts = 0
            self.failures: collections.Counter[str] = collections.Counter()
        return self.active

    def repeat(self, failure: Failure) -> bool:
        """Notes the failure; whether the episode is worth another attempt. Those beside it do not count as its own."""
        self.failures[failure.kind] += 1
        self._attempts += failure.kind != "beside"
        return self._attempts < ATTEMPTS

    @property
    def _filmed(self) -> bool:
        return self.seed - self.task.first < self.task.entry.film

    def lose(self, reason: str) -> Outcome:
        """The episode's outcome where nobody will finish it."""
        no_film = "its episode was lost" if self._filmed else ""
        return Outcome(self.task.entry.name, self.seed, failures=dict(self.failures), lost=reason, no_film=no_film)

    def begin(self) -> Begin:
        """The command that begins the episode, from nothing."""
        self._total, self._steps = 0.0, 0
        self.entropies: list[float] = []
        self._success: bool | None = None
        self._film, self._undrawn = Film(), ""
        return Begin(self.seed, self._filmed)

    def show(self, answer: Answer) -> None:
        self.observation = answer.observation
        self._undrawn = self._undrawn or answer.undrawn
        if answer.frame is not None:
            self._film.add(answer.frame)

    def step(self, answer: Answer) -> Outcome | None:
        """Takes in what followed an action; at the end of the episode, its outcome."""
        self._total += answer.reward
        self._steps += 1
        self.show(answer)
        if answer.success is not None:
            self._success = bool(self._success) or answer.success
        entry = self.task.entry
        solved = bool(self._success) and entry.metric == "success"
        if not (answer.over or solved or self._steps >= entry.max_steps):
            return None
        self.task.finish()
        frames = self._film.frames()
        return Outcome(
            entry.name,
            self.seed,
            self._total,
            self._success,
            self._steps,
            float(np.mean(self.entropies)) if self.entropies else None,
            dict(self.failures),
            no_film="" if frames is not None else self._undrawn,
            frames=frames,
        )
