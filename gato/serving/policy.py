"""All sessions of one checkpoint: rows of an agent's batch, one batch for each embodiment that is being served.

One thread calls all of it. A row belongs to one session from `open` to `close`; what it held before is gone when the
next one begins in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation
from gato.data_pipelines.episode import Episode
from gato.evaluation.demonstrations import open_demonstrations
from gato.inference.agent import Agent
from gato.inference.session import batch_key
from gato.serving.requests import OpenRequest, RequestError, read_prompt
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta


@dataclasses.dataclass(eq=False)
class Session:
    """One client's row.

    Attributes:
      source: name of its source. spec: its leaves.
      steps: actions since the episode began.
    """

    source: str
    spec: EpisodeSpec
    pool: _Pool
    row: int
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """A session's observation, and the reward that followed its last action."""

    session: Session
    observation: Observation
    reward: float | None


@dataclasses.dataclass(eq=False)
class _Pool:
    """The agent of one embodiment and its rows without a session."""

    meta: SourceMeta
    agent: Agent
    rows: int
    free: list[int]


class Policy:
    """Opens, steps and closes sessions.

    Args:
      agent: with the checkpoint's parameters; each embodiment gets an agent of its own, with the same ones.
      rows: most sessions of an embodiment at a time; its cache has room for so many.
      run: where demonstrations are found for prompts by name.
      seed: of those agents. options: of `Agent.reset`, e.g. ``temperature``.
    """

    def __init__(self, agent: Agent, rows: int, run: Path | None = None, seed: int = 0, **options: Any) -> None:
        self._agent, self._rows, self._run, self._seed, self._options = agent, rows, run, seed, options
        self.meta, self.tokenizer = agent.meta, agent.tokenizer
        self._pools: list[_Pool] = []
        self._prompts: dict[str, Episode | None] = {}

    def open(self, request: OpenRequest) -> Session:
        """A new session. Raises GatoError: no such source, a prompt that does not match it, no free row."""
        name, meta = self._agent.source(request.source)
        prompt = request.prompt
        if isinstance(prompt, str):
            episode = self._demonstration(prompt, meta)
        elif prompt is not None:
            episode = read_prompt(prompt, meta.spec, needs_rewards=bool(self.meta.layout.derived))
        else:
            episode = None
        pool = self._pool(name, meta)
        if not pool.free:
            raise RequestError(f"all {self._rows} rows of this embodiment are taken")
        row = pool.free[-1]
        pool.agent.begin(row, prompt=episode, target=request.target, source=name, seed=request.seed)
        pool.free.pop()
        return Session(name, meta.spec, pool, row)

    def act(self, steps: Sequence[Step]) -> list[Action | GatoError]:
        """The next action of each of some sessions (each at most once), in one compiled call an embodiment.

        Where the agent refuses a batch, each of its sessions acts alone, so that only the one at fault is told.
        """
        results: dict[int, Action | GatoError] = {}
        for pool in {id(step.session.pool): step.session.pool for step in steps}.values():
            mine = [i for i, step in enumerate(steps) if step.session.pool is pool]
            try:
                actions: list[Action | GatoError] = [*_act(pool, [steps[i] for i in mine])]
            except GatoError as error:
                actions = [error] if len(mine) == 1 else [self.act([steps[i]])[0] for i in mine]
            results.update(zip(mine, actions, strict=True))
        return [results[i] for i in range(len(steps))]

    def restart(self, session: Session) -> None:
        """A new episode begins; only the prompt stays."""
        session.pool.agent.restart([session.row])
        session.steps = 0

    def close(self, session: Session) -> None:
        """The session's row is free."""
        session.pool.free.append(session.row)

    def drop(self, sessions: Sequence[Session]) -> None:
        """Gives up the batches of these sessions after a failure that left them in an unknown state."""
        lost = {id(session.pool) for session in sessions}
        self._pools = [pool for pool in self._pools if id(pool) not in lost]

    def warm(self, source: str) -> None:
        """Compiles what acting for a source needs, for every number of sessions; with demonstrations if there are any.

        Raises GatoError: see `open`.
        """
        name, meta = self._agent.source(source)
        try:
            episode = self._demonstration(name, meta)
            seen = [{path: values[t] for path, values in episode.observations.items()} for t in range(len(episode))]
        except RequestError:
            episode, seen = None, [blank(meta.spec)]
        count = 1
        while True:
            request = OpenRequest(name, None if episode is None else name, None, 0)
            sessions = [self.open(request) for _ in range(min(count, self._rows))]
            for _ in range(2):
                for result in self.act([Step(s, seen[i % len(seen)], 0.0) for i, s in enumerate(sessions)]):
                    if isinstance(result, GatoError):
                        raise result
            for session in sessions:
                self.close(session)
            if count >= self._rows:
                return
            count *= 2

    def _pool(self, name: str, meta: SourceMeta) -> _Pool:
        """The batch of this embodiment; a new one takes the memory of those that nobody uses."""
        for pool in self._pools:
            if batch_key(pool.meta) == batch_key(meta):
                return pool
        self._pools = [pool for pool in self._pools if len(pool.free) < self._rows]
        agent = Agent(self._agent.params, self.meta, self._seed)
        agent.reset(name, batch=self._rows, **self._options)
        pool = _Pool(meta, agent, self._rows, list(range(self._rows))[::-1])
        self._pools.append(pool)
        return pool

    def _demonstration(self, name: str, meta: SourceMeta) -> Episode:
        known, other = self._agent.source(name)
        if other.spec != meta.spec:
            raise RequestError(f"prompt: demonstrations of {known!r} have other leaves than this source")
        if known not in self._prompts:
            try:
                found = open_demonstrations(self._run) if self._run is not None else {}
            except GatoError:  # what is wrong on the server's disk is not for clients
                found = {}
            self._prompts[known] = found[known].prompts(1)[0] if known in found else None
        episode = self._prompts[known]
        if episode is None:
            raise RequestError(f"prompt: the server has no demonstration of {known!r}; send one")
        return episode


def _act(pool: _Pool, steps: Sequence[Step]) -> list[Action]:
    observations: list[Observation | None] = [None] * pool.rows
    rewards: list[float | None] = [None] * len(observations)
    for step in steps:
        observations[step.session.row] = step.observation
        rewards[step.session.row] = step.reward
    actions = pool.agent.act(observations, rewards)
    chosen = []
    for step in steps:
        action = actions[step.session.row]
        assert action is not None
        chosen.append(action)
        step.session.steps += 1
    return chosen


def blank(spec: EpisodeSpec) -> Observation:
    """An observation of zeros and empty texts."""

    def zero(leaf: LeafSpec) -> Any:
        dtype = {"image": np.uint8, "discrete": np.int32}.get(leaf.modality, np.float64)
        return "" if leaf.modality == "text" else np.zeros(leaf.shape, dtype)

    return {path: zero(leaf) for path, leaf in spec.observations.items()}
