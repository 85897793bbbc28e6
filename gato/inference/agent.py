"""The agent: a trained network, shown a prompt, acts in a batch of environments of one embodiment.

    agent = Agent.from_checkpoint("runs/quickstart")
    agent.reset("metaworld/reach-v3", batch=20, prompts=demonstrations)
    actions = agent.act(observations)                  # 20 observations -> 20 actions
    actions = agent.act(observations, rewards=rewards)

Rows of the batch are independent of each other. A row whose observation is None stays as it is; a new episode, behind
the same prompt or behind a new one, begins in a row whenever one likes:

    agent.begin(3, prompt=another)
    actions = agent.act([None, None, None, observation])

One compiled call a timestep appends the new tokens to a cache and samples the action token by token, each from the ids
that are legal for it (Gato section 2.4; what a row remembers is in `memory`). What a recipe conditions on comes from
its `Conditioning`; nothing here knows a recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gato.data_pipelines.environments.base import Action, Observation
from gato.data_pipelines.episode import Episode
from gato.inference import sampler
from gato.inference.conditions import Conditions
from gato.inference.decoder import Decoder
from gato.inference.generate import generate
from gato.inference.memory import MODES, Memory, Mode
from gato.inference.observations import split_actions, stack_observations
from gato.inference.prompt import PromptPart, prompt_tokens
from gato.inference.sampling import Sampling
from gato.inference.stream import TextStream
from gato.model.layers import unrolled
from gato.recipes.recipe import get_recipe
from gato.tokenizers.errors import GatoError, SpecError, suggest
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint import load_for_inference
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta

# Chunks of embodiments with text vary in length; rounding keeps the number of compiled shapes small.
TEXT_ROUNDING = 16


class AgentError(GatoError):
    """The agent was asked for what its checkpoint or its state does not have."""


@dataclasses.dataclass
class _Session:
    """What `reset` sets up for one batch of environments; lists and arrays have one entry a row."""

    spec: EpisodeSpec
    ranges: sampler.Ranges
    prompt_timesteps: int | None
    prompt_part: PromptPart
    ragged: bool  # rows differ in length because the observation holds text
    sampling: Sampling
    memory: Memory
    decoder: Decoder
    conditions: Conditions
    draws: np.ndarray  # uint32 [B, 2]: the row's seed, and how often it has acted with it
    width: int = 0  # of the chunk that is read in the call that acts

    @property
    def rows(self) -> int:
        return len(self.draws)


def _memory_of(source: SourceMeta) -> tuple[Any, ...]:
    """What environments of one batch must share."""
    return source.spec, source.window_timesteps, source.prompt_timesteps


class Agent:
    """Acts with the parameters of a checkpoint.

    Attributes:
      params, meta: the network, its layers unrolled, and what the checkpoint says about itself; `meta.sources` are the
        embodiments it knows.
      tokenizer: of the checkpoint's vocabulary, text model and layout.
      logits: float32 [n, A, W] of the n rows that acted last, see `sampler.extend_and_act`.
    """

    def __init__(self, params: Any, meta: CheckpointMeta, seed: int = 0) -> None:
        """``params``: the variables ``{"params": ...}``. ``seed`` decides everything that is sampled."""
        model, self.params = unrolled(meta.model, params)
        self.meta = dataclasses.replace(meta, model=model)
        self.recipe = get_recipe(meta.recipe)
        self.tokenizer = SequenceTokenizer(
            meta.vocabulary, TextTokenizer(meta.text_model), meta.layout, meta.model.local_positions
        )
        self.logits: jax.Array | None = None
        self._key = jax.random.key(seed)
        self._seeds = 0  # given to rows so far
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
        seeds: Sequence[int] | None = None,
        memory: Mode = "window",
        memory_tokens: int | None = None,
        window_timesteps: int | None = None,
        prompt_part: PromptPart = "end",
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
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
          seeds: for each environment a number from 0 to 2^32 - 1 that decides, with the agent's seed, all of its draws,
            whoever else is in the batch; by default numbers that this agent has not given to a row yet.
          memory: what happens when a row is full, see `gato.inference.memory`: "window" (as in training), "sliding" or
            "memory".
          memory_tokens: most tokens of a row, or (mode "memory") that a token sees; by default those of a training row.
          window_timesteps: timesteps behind the prompt in mode "window", instead of those of training.
          temperature: of the action's tokens, instead of the recipe's; 0 is greedy.
          top_k, top_p: draw from the most probable ids only: so many of them, or as few as have this probability
            together.

        Raises:
          AgentError: unknown source, or arguments that contradict each other.
          SamplingError: temperature, top_k or top_p is no way to draw.
          SpecError, VocabularyError: the tokenizer cannot hold this action space.
        """
        if sources is None and source is not None:
            sources = [source] * (batch or (len(prompts) if prompts is not None else 1))
        metas = [self.source(name)[1] for name in sources or ()]
        if not metas and spec is None:
            raise AgentError("reset needs the name of a source, or the spec of a new embodiment: reset(spec=...)")
        batch = batch or len(metas) or (len(prompts) if prompts is not None else 1)
        for name, values in (
            ("sources", metas or None),
            ("prompts", prompts),
            ("targets", targets),
            ("seeds", seeds),
        ):
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
        window = first.window_timesteps if window_timesteps is None else window_timesteps
        if window is not None and window < 1:
            raise AgentError(f"reset: window_timesteps must be at least 1, got {window}")
        if memory not in MODES:
            raise AgentError(f"reset: memory is one of {', '.join(MODES)}; got {memory!r}")
        if memory != "window" and window_timesteps is not None:
            raise AgentError(f"reset: window_timesteps belongs to memory='window', not to {memory!r}")
        length = self.meta.length if memory_tokens is None else memory_tokens
        step = self.tokenizer.tokens_per_timestep(spec)  # texts are not known yet; the decoder makes room for them
        if length < step:
            raise AgentError(f"reset: memory_tokens must be at least {step}, one timestep of this spec; got {length}")
        tokens = length
        if memory == "window" and window is not None:
            longest_prompt = min(length // 2, (first.prompt_timesteps or length) * step)
            tokens = min(length, longest_prompt + window * step)
        statistics = [meta.statistics for meta in metas] or [{}] * batch
        self._session = _Session(
            spec=spec,
            ranges=ranges,
            prompt_timesteps=first.prompt_timesteps,
            prompt_part=prompt_part,
            ragged=any(leaf.modality == "text" for leaf in spec.observations.values()),
            sampling=Sampling.of(
                self.recipe.decoding.control_temperature if temperature is None else temperature, top_k, top_p
            ),
            memory=Memory(batch, memory, length, window, len(ranges), self.meta.vocabulary.padding),
            decoder=Decoder(self.meta.model, self.params, batch, tokens, ring=memory == "memory", timestep=step),
            conditions=Conditions([self.recipe.conditioning(values) for values in statistics]),
            draws=np.zeros((batch, 2), np.uint32),
        )
        for row in range(batch):
            self.begin(
                row,
                prompt=None if prompts is None else prompts[row],
                target=None if targets is None else targets[row],
                seed=None if seeds is None else seeds[row],
            )

    def begin(
        self,
        row: int,
        *,
        prompt: Episode | None = None,
        target: float | None = None,
        source: str | None = None,
        seed: int | None = None,
    ) -> None:
        """A new episode begins in one row, behind a new prompt; nothing of what the row held stays.

        Args:
          prompt, target, seed: of this row, as in `reset`.
          source: its source from now on, if another one; it must share spec and windows with the batch's.

        Raises:
          AgentError: no `reset` before, no such row, or a source of another embodiment.
          SpecError: the prompt does not match the spec.
        """
        session = self._active()
        if not 0 <= row < session.rows:
            raise AgentError(f"begin: row {row} of {session.rows}")
        conditioning = None
        if source is not None:
            meta = self.source(source)[1]
            if (meta.spec, meta.prompt_timesteps) != (session.spec, session.prompt_timesteps):
                raise AgentError(f"begin: {source!r} and the batch differ in spec or prompt length: use another batch")
            conditioning = self.recipe.conditioning(meta.statistics)
        tokens = None
        if prompt is not None:
            tokens = prompt_tokens(
                prompt,
                self.recipe.derive(prompt),
                self.tokenizer,
                session.spec,
                session.prompt_timesteps,
                self.meta.length // 2,
                session.prompt_part,
            )
        session.memory.begin(row, tokens)
        session.conditions.begin(row, target, conditioning)
        session.draws[row] = self._seeds if seed is None else seed, 0
        self._seeds += seed is None

    def restart(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> None:
        """New episodes begin in these rows; their prompts stay. With ``seeds`` their draws begin anew as well."""
        session = self._active()
        for i, row in enumerate(rows):
            session.memory.restart(row, session.decoder.capacity)
            session.conditions.restart(row)
            if seeds is not None:
                session.draws[row] = seeds[i], 0

    def act(
        self,
        observations: Sequence[Observation | None],
        rewards: Sequence[float | None] | np.ndarray | None = None,
    ) -> list[Action | None]:
        """The next action of each environment: leaf path -> array, always legal for the embodiment.

        Args:
          observations: one for each environment, flat or nested; None: this row does not act and stays as it is.
          rewards: [B] what followed each last action, for recipes that condition on it; ignored where an episode
            begins.

        Returns:
          An action for each observation, None for None.

        Raises:
          AgentError: no `reset` before, a wrong number of observations, or a recipe that needs rewards and got none.
          SpecError: an observation does not match the spec. The message names the leaf. No row has changed then.
        """
        session = self._active()
        memory = session.memory
        if len(observations) != session.rows:
            raise AgentError(f"act: {len(observations)} observations for {session.rows} environments")
        rows = np.array([row for row, observation in enumerate(observations) if observation is not None], np.int32)
        actions: list[Action | None] = [None] * session.rows
        if not len(rows):
            return actions
        stacked = stack_observations(observations, session.spec)
        conditions = self._conditions(session, rows, rewards)
        derived = {name: conditions.leaf(name, rows) for name in self.meta.layout.derived}
        prefix = self.tokenizer.tokenize(stacked, None, session.spec, derived)
        # Only now that nothing was refused: the same call with a mended observation counts the rewards once.
        session.conditions = conditions
        memory.observe(rows, prefix)
        # The last action's last token was sampled, but is not in the cache yet; a first timestep has none.
        longest = 1 + int(np.diff(prefix.timestep_starts).max())
        session.width = max(session.width, _round_up(longest, TEXT_ROUNDING) if session.ragged else longest)
        ids, self.logits = session.decoder.act(
            memory, rows, session.width, session.ranges, self._key, session.draws[rows], session.sampling
        )
        memory.acted(rows, ids)
        session.draws[rows, 1] += 1
        chosen = split_actions(self.tokenizer.decode_actions(ids, session.spec), len(rows))
        for row, action in zip(rows.tolist(), chosen, strict=True):
            actions[row] = action
        return actions

    def keep(self, rows: Sequence[int]) -> None:
        """Row ``rows[i]`` (ascending) becomes row i; the other environments are done."""
        session = self._active()
        chosen = np.asarray(rows, np.int64)
        session.memory.keep(chosen)
        session.decoder.keep(chosen)
        session.conditions.keep(rows)
        session.draws = session.draws[chosen]

    def generate(
        self,
        source: str,
        documents: Mapping[str, Sequence[Any]],
        *,
        begin: str = "",
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit: int = 64,
    ) -> list[str]:
        """Texts for N documents of a source: captions for ``{"image": images}``, answers with ``"question"`` too.

        `temperature` None takes the recipe's (Gato: 0.9), 0 is greedy; the rest as in `gato.inference.generate`.
        """
        self._seeds += 1
        return generate(
            self.meta.model,
            self.params,
            self.tokenizer,
            documents,
            self.source(source)[1].spec,
            key=jax.random.fold_in(self._key, self._seeds),
            sampling=self._text_sampling(temperature, top_k, top_p),
            limit=limit,
            begin=begin,
        )

    def stream(
        self,
        source: str,
        document: Mapping[str, Any],
        *,
        begin: str = "",
        stop: Sequence[str] = (),
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit: int = 64,
    ) -> TextStream:
        """One text of `generate`, piece by piece while it is written, without `begin`.

        ``stop``: strings that end it. Prompt and text stay within the length of a training row.
        """
        self._seeds += 1
        return TextStream(
            self.meta.model,
            self.params,
            self.tokenizer,
            document,
            self.source(source)[1].spec,
            key=jax.random.fold_in(self._key, self._seeds),
            sampling=self._text_sampling(temperature, top_k, top_p),
            limit=limit,
            context=self.meta.length,
            begin=begin,
            stop=stop,
        )

    def _text_sampling(self, temperature: float | None, top_k: int | None, top_p: float | None) -> Sampling:
        return Sampling.of(self.recipe.decoding.text_temperature if temperature is None else temperature, top_k, top_p)

    def _active(self) -> _Session:
        if self._session is None:
            raise AgentError("act before reset: agent.reset(source, batch=...) says which embodiment")
        return self._session

    def _conditions(
        self, session: _Session, rows: np.ndarray, rewards: Sequence[float | None] | np.ndarray | None
    ) -> Conditions:
        """The session's conditions after the rewards of those of the ``rows`` that have acted before."""
        if not self.meta.layout.derived:
            return session.conditions
        acted = rows[session.memory.timesteps[rows] > 0].tolist()
        given = [None if rewards is None else rewards[row] for row in acted]
        known = [float(reward) for reward in given if reward is not None]
        if len(known) < len(acted):
            raise AgentError(f"recipe {self.meta.recipe!r} conditions on rewards: act(observations, rewards=...)")
        return session.conditions.after(acted, known)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
