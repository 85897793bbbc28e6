"""The agent: a trained network, shown a prompt, acts in a batch of environments of one embodiment.

    agent = Agent.from_checkpoint("runs/quickstart")
    agent.reset("metaworld/reach-v3", batch=20, prompts=demonstrations)
    actions = agent.act(observations)                  # 20 observations -> 20 actions
    actions = agent.act(observations, rewards=rewards)

One compiled call a timestep appends the new tokens to a cache and samples the action token by token, each from the ids
that are legal for it (Gato section 2.4; what the memory holds is in `memory`). What a recipe conditions on comes from
its `Conditioning`; nothing here knows a recipe.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gato.data_pipelines.environments.base import Action, Observation
from gato.data_pipelines.episode import Episode
from gato.inference import sampler
from gato.inference.chunk import Piece, lengths, pack, rounded, used
from gato.inference.generate import generate
from gato.inference.memory import Memory
from gato.inference.observations import split_actions, stack_observations
from gato.model.cache import Cache, init_cache
from gato.recipes.recipe import Conditioning, get_recipe
from gato.tokenizers.errors import GatoError, SpecError, suggest
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import concatenate
from gato.training.checkpoint import load_for_inference
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta

CAPACITY_ROUNDING = 16


class AgentError(GatoError):
    """The agent was asked for what its checkpoint or its state does not have."""


@dataclasses.dataclass
class _Session:
    """What `reset` sets up for one batch of environments."""

    spec: EpisodeSpec
    ranges: sampler.Ranges
    ragged: bool  # rows differ in length because the observation holds text
    temperature: float
    memory: Memory
    cache: Cache
    conditionings: list[Conditioning]
    targets: list[float | None]
    derived: list[dict[str, float]]
    seeds: np.ndarray  # uint32 [B], of each row's episode
    steps: np.ndarray  # int32 [B], timesteps of it so far
    patch_capacity: int = 0


def _memory_of(source: SourceMeta) -> tuple[Any, ...]:
    """What environments of one batch must share."""
    return source.spec, source.window_timesteps, source.prompt_timesteps


class Agent:
    """Acts with the parameters of a checkpoint.

    Attributes:
      meta: what the checkpoint says about itself; `meta.sources` are the embodiments it knows.
      tokenizer: of the checkpoint's vocabulary, text model and layout.
      logits: float32 [B, A, W] of the last `act`, see `sampler.extend_and_act`.
    """

    def __init__(self, params: Any, meta: CheckpointMeta, seed: int = 0) -> None:
        """``params``: the variables ``{"params": ...}``. ``seed`` decides everything that is sampled."""
        self.params, self.meta = params, meta
        self.recipe = get_recipe(meta.recipe)
        self.tokenizer = SequenceTokenizer(
            meta.vocabulary, TextTokenizer(meta.text_model), meta.layout, meta.model.local_positions
        )
        self.logits: jax.Array | None = None
        self._key = jax.random.key(seed)
        self._calls = 0
        self._session: _Session | None = None

    @classmethod
    def from_checkpoint(cls, path: Path | str, seed: int = 0) -> Agent:
        """Of a run directory's newest checkpoint, or of ``<run>/checkpoints/<step>``. Raises CheckpointError."""
        params, meta = load_for_inference(path)
        return cls(params, meta, seed)

    def source(self, name: str) -> tuple[str, SourceMeta]:
        """(name, meta) of the source of this name, or of the first with this task. AgentError with a suggestion."""
        if name in self.meta.sources:
            return name, self.meta.sources[name]
        for known, source in self.meta.sources.items():
            if source.task == name:
                return known, source
        raise AgentError(
            f"source {name!r} is not in this checkpoint; {suggest(name, self.meta.sources)} "
            "(a new embodiment is given by reset(spec=...))"
        )

    def reset(
        self,
        source: str | None = None,
        *,
        batch: int | None = None,
        spec: EpisodeSpec | None = None,
        prompts: Sequence[Episode | None] | None = None,
        sources: Sequence[str] | None = None,
        targets: Sequence[float | None] | None = None,
        window_timesteps: int | None = None,
        temperature: float | None = None,
        prompt_part: Literal["end", "beginning"] = "end",
    ) -> None:
        """New episodes begin in all of a batch of environments.

        Args:
          source: name of a source or task of the checkpoint, which gives the spec, the window and the length of
            prompts.
          batch: number of environments; by default one for each prompt, or one.
          spec: of a new embodiment, instead of a source (or another spec for it).
          prompts: for each environment a demonstration, or None. As many timesteps of it are shown as prompts had in
            training.
          prompt_part: which end of it. Half of training's prompts are the end of an episode, and it shows the goal; the
            paper shows the beginning.
          sources: for each environment its source, where tasks of one embodiment are played in one batch.
          targets: for each environment what the recipe is conditioned on; None: the recipe's default for the source.
          window_timesteps: timesteps of memory behind the prompt, instead of those of training.
          temperature: of the action's tokens, instead of the recipe's; 0 is greedy.

        Raises:
          AgentError: unknown source, or arguments that contradict each other.
          SpecError, VocabularyError: the tokenizer cannot hold this action space.
        """
        if sources is None and source is not None:
            sources = [source] * (batch or (len(prompts) if prompts is not None else 1))
        metas = [self.source(name)[1] for name in sources or ()]
        if not metas and spec is None:
            raise AgentError("reset needs the name of a source, or the spec of a new embodiment: reset(spec=...)")
        batch = batch or len(metas) or (len(prompts) if prompts is not None else 1)
        for name, values in (("sources", metas or None), ("prompts", prompts), ("targets", targets)):
            if values is not None and len(values) != batch:
                raise AgentError(f"reset: {len(values)} {name} for {batch} environments")
        spec = spec or metas[0].spec
        first = metas[0] if metas else SourceMeta(spec)
        for name, meta in zip(sources or (), metas, strict=True):
            if _memory_of(meta) != _memory_of(first):
                raise AgentError(
                    f"reset: {name!r} and the first source differ in spec, window or prompt length: use two batches"
                )
        if spec.kind != "control" or not spec.actions:
            raise AgentError(f"source {source or 'of this spec'!r} has no actions; text is written by `generate`")
        layout = self.meta.layout
        if layout.timestep[-1] != "action":
            raise SpecError(
                f"layout part {layout.timestep[-1]!r} stands after the action, where its value is not known while "
                "acting; let it stand before the next observation"
            )
        ranges = tuple((int(lo), int(hi)) for lo, hi in self.tokenizer.action_ranges(spec))
        ragged = any(leaf.modality == "text" for leaf in spec.observations.values())
        pieces = self._prompts(prompts or [None] * batch, spec, first.prompt_timesteps, prompt_part)
        prompt_lengths = lengths(pieces, batch)
        window = first.window_timesteps if window_timesteps is None else window_timesteps
        if window is not None and window < 1:
            raise AgentError(f"reset: window_timesteps must be at least 1, got {window}")
        memory = Memory(prompt_lengths, window, self.meta.length, len(ranges))
        # Texts are not known yet; where they need more room, `act` makes it.
        capacity = _round_up(memory.tokens(self.tokenizer.tokens_per_timestep(spec) - len(ranges)), CAPACITY_ROUNDING)
        cache = init_cache(self.meta.model, batch, capacity, self.params)
        if pieces:
            tokens, valid = pack(pieces, batch, capacity, self.meta.vocabulary.padding)
            cache = sampler.extend(self.meta.model, self.params, cache, used(tokens), valid)
        statistics = [meta.statistics for meta in metas] or [{}] * batch
        self._session = _Session(
            spec=spec,
            ranges=ranges,
            ragged=ragged,
            temperature=self.recipe.decoding.control_temperature if temperature is None else temperature,
            memory=memory,
            cache=cache,
            conditionings=[self.recipe.conditioning(values) for values in statistics],
            targets=list(targets or [None] * batch),
            derived=[{} for _ in range(batch)],
            seeds=np.zeros(batch, np.uint32),
            steps=np.zeros(batch, np.int32),
        )
        self.restart(range(batch))

    def act(
        self, observations: Sequence[Observation], rewards: Sequence[float] | np.ndarray | None = None
    ) -> list[Action]:
        """The next action of each environment: leaf path -> array, always legal for the embodiment.

        Args:
          observations: one for each environment, flat or nested.
          rewards: [B] what followed each last action, for recipes that condition on it; ignored where an episode
            begins.

        Raises:
          AgentError: no `reset` before, a wrong number of observations, or a recipe that needs rewards and got none.
          SpecError: an observation does not match the spec. The message names the leaf.
        """
        session = self._active()
        memory, batch = session.memory, session.memory.batch
        if len(observations) != batch:
            raise AgentError(f"act: {len(observations)} observations for {batch} environments")
        stacked = stack_observations(observations, session.spec)
        conditionings, rows = self._condition(session, rewards)
        derived = {name: np.array([row[name] for row in rows]) for name in self.meta.layout.derived}
        prefix = Piece.of_timesteps(self.tokenizer.tokenize(stacked, None, session.spec, derived))
        # Only now that nothing was refused: the same call with a mended observation counts the rewards once.
        session.conditionings, session.derived = conditionings, rows
        prefix_tokens = rounded(int(lengths([prefix], batch).max()), session.ragged)
        self._make_room(session, memory.tokens(prefix_tokens))
        # The first timestep has no pending action token; it takes the shape of the later ones all the same.
        first = memory.window(prefix_tokens) > 1 and not memory.ages.any()
        pieces = memory.chunk(prefix, prefix_tokens)
        needed = int(lengths(pieces, batch).max()) + int(first)
        tokens, valid = pack(
            pieces, batch, rounded(needed, session.ragged), self.meta.vocabulary.padding, session.patch_capacity
        )
        session.patch_capacity = max(session.patch_capacity, len(tokens["patches"]))
        ids, self.logits, session.cache = sampler.extend_and_act(
            self.meta.model,
            session.ranges,
            self.params,
            dataclasses.replace(session.cache, length=jnp.asarray(memory.lengths)),
            used(tokens),
            valid,
            self._key,
            session.seeds.copy(),  # JAX may read a numpy array later than `restart` changes it
            session.steps.copy(),
            np.float32(session.temperature),
        )
        chosen = np.asarray(ids)
        session.steps += 1
        memory.remember(prefix, chosen, valid)
        return split_actions(self.tokenizer.decode_actions(chosen, session.spec), batch)

    def restart(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> None:
        """New episodes begin in these rows; their prompts stay.

        Args:
          seeds: of each row's episode, in [0, 2**32): the draws of a row depend on its seed alone, not on the rows
            beside it nor on what the agent did before. None: seeds that this agent has not had yet.
        """
        session = self._active()
        session.memory.restart(np.asarray(rows, np.int64))
        if seeds is None:
            seeds = range(self._calls, self._calls + len(rows))
            self._calls += len(rows)
        session.seeds[list(rows)], session.steps[list(rows)] = seeds, 0
        for row in rows:
            session.derived[row] = session.conditionings[row].start(session.targets[row])

    def keep(self, rows: Sequence[int]) -> None:
        """Row ``rows[i]`` (ascending) becomes row i; the other environments are done."""
        session = self._active()
        chosen = np.asarray(rows, np.int64)
        session.memory.keep(chosen)
        session.cache = sampler.select_rows(session.cache, chosen)
        session.conditionings = [session.conditionings[row] for row in rows]
        session.targets = [session.targets[row] for row in rows]
        session.derived = [session.derived[row] for row in rows]
        session.seeds, session.steps = session.seeds[chosen], session.steps[chosen]
        session.patch_capacity = 0

    def generate(
        self,
        source: str,
        documents: Mapping[str, Sequence[Any]],
        *,
        begin: str = "",
        temperature: float | None = None,
        limit: int = 64,
    ) -> list[str]:
        """Texts for N documents of a source: captions for ``{"image": images}``, answers with ``"question"`` too.

        `temperature` None takes the recipe's (Gato: 0.9), 0 is greedy; the rest as in `gato.inference.generate`.
        """
        self._calls += 1
        return generate(
            self.meta.model,
            self.params,
            self.tokenizer,
            documents,
            self.source(source)[1].spec,
            key=jax.random.fold_in(self._key, self._calls),
            temperature=self.recipe.decoding.text_temperature if temperature is None else temperature,
            limit=limit,
            begin=begin,
        )

    def _active(self) -> _Session:
        if self._session is None:
            raise AgentError("act before reset: agent.reset(source, batch=...) says which embodiment")
        return self._session

    def _condition(
        self, session: _Session, rewards: Sequence[float] | np.ndarray | None
    ) -> tuple[list[Conditioning], list[dict[str, float]]]:
        """The session's conditionings after `rewards` and their values for this timestep, as copies."""
        if not self.meta.layout.derived:
            return session.conditionings, session.derived
        conditionings, derived = copy.deepcopy(session.conditionings), list(session.derived)
        for row in np.flatnonzero(session.memory.ages):
            if rewards is None:
                raise AgentError(f"recipe {self.meta.recipe!r} conditions on rewards: act(observations, rewards=...)")
            derived[row] = conditionings[row].update(float(rewards[row]))
        return conditionings, derived

    def _prompts(
        self, prompts: Sequence[Episode | None], spec: EpisodeSpec, timesteps: int | None, part: str
    ) -> list[Piece]:
        """The prompts' tokens: the first or last ``timesteps`` of each episode, at most half a row of training."""
        pieces = []
        budget = self.meta.length // 2
        steps = timesteps or max(1, budget // self.tokenizer.tokens_per_timestep(spec))
        for row, episode in enumerate(prompts):
            if episode is None:
                continue
            shown = slice(-steps, None) if part == "end" else slice(steps)
            sequence = self.tokenizer.tokenize(
                {path: values[shown] for path, values in episode.observations.items()},
                {path: values[shown] for path, values in episode.actions.items()},
                spec,
                {name: values[shown] for name, values in self.recipe.derive(episode).items()},
            )
            starts = sequence.timestep_starts  # whole timesteps only, at least one
            if part == "end":
                over = int(np.searchsorted(starts, len(sequence) - budget))
                sequence = sequence.slice(min(over, len(starts) - 2), len(starts) - 1)
            else:
                fits = int(np.searchsorted(starts, budget, side="right")) - 1
                sequence = sequence.slice(0, max(fits, 1))
            pieces.append((row, sequence))
        if not pieces:
            return []
        rows = np.concatenate([np.full(len(sequence), row, np.int32) for row, sequence in pieces])
        return [Piece.of_tokens(concatenate([sequence for _, sequence in pieces]), rows)]

    def _make_room(self, session: _Session, needed: int) -> None:
        """A larger cache where texts turn out longer than the room that was left for them."""
        old = session.cache
        if needed <= old.capacity:
            return
        capacity = _round_up(needed, CAPACITY_ROUNDING)
        grown = init_cache(self.meta.model, session.memory.batch, capacity, self.params)
        k, v = (new.at[:, :, :, : old.capacity].set(part) for new, part in ((grown.k, old.k), (grown.v, old.v)))
        session.cache = dataclasses.replace(grown, k=k, v=v)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
