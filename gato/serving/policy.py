"""All sessions of one checkpoint: rows of an agent's batch, one batch for each embodiment that is being served.

One thread calls all of it. A row belongs to one session from `open` to `close`; what it held before is gone when the
next one begins in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation
from gato.data_pipelines.episode import Episode
from gato.evaluation.demonstrations import open_demonstrations
from gato.inference.agent import Agent
from gato.inference.session import batch_key
from gato.serving.requests import OpenRequest, RequestError, count_tokens, read_prompt
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta

LOOK_AGAIN = 5.0  # seconds after which a demonstration that was not there is looked for anew, which opens all stores


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
        self._prompts: dict[str, Episode] = {}
        self._looked: dict[str, float] = {}  # when this source's demonstrations were looked for and not found
        self._looking = threading.Lock()

    def prompt(self, request: OpenRequest) -> Episode | None:
        """The demonstration that a request wants to show; any thread may ask.

        Raises GatoError: no such source, or a prompt that does not match it or is not there.
        """
        _, meta = self._agent.source(request.source)
        if isinstance(request.prompt, str):
            return self._demonstration(request.prompt, meta)
        if request.prompt is None:
            return None
        return read_prompt(request.prompt, meta.spec, needs_rewards=bool(self.meta.layout.derived))

    def open(self, request: OpenRequest, prompt: Episode | None, instead: Session | None = None) -> Session:
        """A new session behind its `prompt`, in the place of another one, which is closed.

        Raises GatoError: no such source, no target, a prompt that does not match, no free row. Nothing has changed
        then, and ``instead`` goes on.
        """
        name, meta = self._agent.source(request.source)
        self._agent.recipe.conditioning(meta.statistics).start(request.target)  # refused before a row is touched
        pool = self._pool(name, meta)
        if instead is not None and instead.pool is pool:
            row = instead.row
        elif pool.free:
            row = pool.free[-1]
        else:
            raise RequestError(f"all {self._rows} rows of this embodiment are taken")
        pool.agent.begin(row, prompt=prompt, target=request.target, source=name, seed=request.seed)
        if instead is not None:
            self.close(instead)
        pool.free.remove(row)
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

        Only texts of other lengths than in a demonstration, and more different patches of pictures, compile again.

        Raises GatoError: see `open`.
        """
        name, meta = self._agent.source(source)
        try:
            episode = self._demonstration(name, meta)
            seen = [{path: values[t] for path, values in episode.observations.items()} for t in range(len(episode))]
        except RequestError:
            episode, seen = None, [blank(meta.spec)]
        by_length = {count_tokens(each, meta.spec, self.tokenizer): each for each in seen}
        # The longest texts and the most sessions first: what grows with what was seen, as the room for patches, has
        # grown then.
        shown = [seen, *([by_length[length]] for length in sorted(by_length, reverse=True))]
        request = OpenRequest(name, None, None, 0)
        count = self._rows
        while count:
            sessions = [self.open(request, episode) for _ in range(count)]
            for observations in shown:
                steps = [Step(s, observations[i % len(observations)], 0.0) for i, s in enumerate(sessions)]
                for result in self.act(steps):
                    if isinstance(result, GatoError):
                        raise result
            # The length of a prompt, and of what is read again of a full row, decide which chunks are read.
            sessions[0].pool.agent.compile(sorted(session.row for session in sessions))
            for session in sessions:
                self.close(session)
            count = (1 << (count - 1).bit_length()) // 2

    def _pool(self, name: str, meta: SourceMeta) -> _Pool:
        """The batch of this embodiment. If nobody was using it, those that nobody uses give their memory back.

        They stay, and with them the sizes for which all is compiled.
        """
        pool = next((pool for pool in self._pools if batch_key(pool.meta) == batch_key(meta)), None)
        if pool is not None and len(pool.free) < self._rows:
            return pool
        for other in self._pools:
            if other is not pool and len(other.free) == self._rows:
                other.agent.release()
        if pool is None:
            agent = Agent(self._agent.params, self.meta, self._seed)
            agent.reset(name, batch=self._rows, **self._options)
            pool = _Pool(meta, agent, self._rows, list(range(self._rows))[::-1])
            self._pools.append(pool)
        return pool

    def _demonstration(self, name: str, meta: SourceMeta) -> Episode:
        known, other = self._agent.source(name)
        if other.spec != meta.spec:
            raise RequestError(f"prompt: demonstrations of {known!r} have other leaves than this source")
        with self._looking:
            if known not in self._prompts and time.monotonic() >= self._looked.get(known, -LOOK_AGAIN) + LOOK_AGAIN:
                self._look_for(known)
        if known not in self._prompts:
            raise RequestError(f"prompt: the server has no demonstration of {known!r}; send one")
        return self._prompts[known]

    def _look_for(self, source: str) -> None:
        if self._run is None:
            return
        with contextlib.suppress(GatoError):  # what is wrong on the server's disk is not for clients
            found = open_demonstrations(self._run, missing="skip")
            episode = found[source].prompts(1)[0] if source in found else None
            if episode is not None:
                self._prompts[source] = episode
        self._looked[source] = time.monotonic()


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
