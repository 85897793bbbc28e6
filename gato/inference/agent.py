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
from gato.inference.conditions import Conditions
from gato.inference.decoder import Decoder
from gato.inference.draws import automatic_draws, explicit_draws
from gato.inference.generate import generate
from gato.inference.memory import Memory, Mode
from gato.inference.observations import split_actions, stack_observations
from gato.inference.prompt import PromptPart, tokenize_prompt
from gato.inference.sampling import Sampling
from gato.inference.session import AgentError, Room, Session, batch_key, check_layout, common_source
from gato.inference.stream import TextStream
from gato.model.layers import unrolled
from gato.model.precision import cast_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.errors import GatoError, counted, suggest
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint import load_for_inference
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta

__all__ = ["Agent", "AgentError"]


class Agent:
    """Acts with the parameters of a checkpoint.

    Attributes:
      params, meta: the network, its layers unrolled and its matrices in the dtype in which it multiplies, and what the
        checkpoint says about itself; `meta.sources` are the embodiments it knows.
      tokenizer: of the checkpoint's vocabulary, text model and layout.
    """

    def __init__(self, params: Any, meta: CheckpointMeta, seed: int = 0) -> None:
        """``params``: the variables ``{"params": ...}``. ``seed`` decides everything that is sampled."""
        model, params = unrolled(meta.model, params)
        self.params = cast_params(model, params)
        self.meta = dataclasses.replace(meta, model=model)
        self.recipe = get_recipe(meta.recipe)
        self.tokenizer = SequenceTokenizer(
            meta.vocabulary, TextTokenizer(meta.text_model), meta.layout, meta.model.local_positions
        )
        self._logits: tuple[jax.Array, np.ndarray] | None = None  # of a call's rows, and which of them acted
        self._key = jax.random.key(seed)
        self._seeds = 0  # given to rows so far
        self._session: Session | None = None

    @classmethod
    def from_checkpoint(cls, path: Path | str, seed: int = 0) -> Agent:
        """Of a run directory's newest checkpoint, or of ``<run>/checkpoints/<step>``. Raises CheckpointError."""
        params, meta = load_for_inference(path)
        return cls(params, meta, seed)

    @property
    def logits(self) -> jax.Array | None:
        """float32 [n, A, W] of the n rows that acted last, see `sampler.extend_and_act`."""
        if self._logits is None:
            return None
        logits, acted = self._logits
        return logits if len(acted) == len(logits) else logits[acted]

    def source(self, name: str) -> tuple[str, SourceMeta]:
        """(name, meta) of the source of this name, or of the first with this task. AgentError with a suggestion."""
        if name in self.meta.sources:
            return name, self.meta.sources[name]
        for known, source in self.meta.sources.items():
            if source.task == name:
                return known, source
        raise AgentError(f"source {name!r} is not in this checkpoint; {suggest(name, self.meta.sources)}")

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
        prompt_tokens: int | None = None,
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
          prompts: for each environment a demonstration, or None.
          prompt_tokens: as many whole timesteps of it are shown as these hold, at least one; in mode "window" at most
            half a training row, in the others at most `memory_tokens`. By default what prompts had in training: as many
            timesteps, in half a row.
          prompt_part: which end of it. Half of training's prompts are the end of an episode, and it shows the goal; the
            paper shows the beginning.
          sources: for each environment its source, where tasks of one embodiment are played in one batch.
          targets: for each environment what the recipe is conditioned on; None: the recipe's default for the source.
          seeds: for each environment a number from 0 to 2^32 - 1 that decides, with the agent's seed, all of its draws,
            whoever else is in the batch; by default draws that no number gives and that no other row has.
          memory: what happens when a row is full, see `gato.inference.memory`: "window" (as in training), "sliding" or
            "memory".
          memory_tokens: most tokens of a row, or (mode "memory") that a token sees; by default those of a training row.
          window_timesteps: timesteps behind the prompt in mode "window", instead of those of training.
          temperature: of the action's tokens, instead of the recipe's; 0 is greedy.
          top_k, top_p: draw from the most probable ids only: so many of them, or as few as have this probability
            together.

        Raises:
          AgentError: unknown source, no seed, or arguments that contradict each other.
          SamplingError: temperature, top_k or top_p is no way to draw.
          SpecError, VocabularyError: the tokenizer cannot hold this action space.
        """
        batch = batch or len(sources or prompts or [None])
        if sources is None and source is not None:
            sources = [source] * batch
        for name, values in (("sources", sources), ("prompts", prompts), ("targets", targets), ("seeds", seeds)):
            if values is not None and len(values) != batch:
                raise AgentError(f"reset: {len(values)} {name} for {batch} environments")
        for seed in () if seeds is None else seeds:
            explicit_draws(seed, "reset")
        metas = [self.source(name)[1] for name in sources or ()]
        common = common_source(sources or (), metas, spec)
        check_layout(self.meta.layout)
        ranges = tuple((int(lo), int(hi)) for lo, hi in self.tokenizer.action_ranges(common.spec))
        room = Room.of(
            common,
            self.meta.length,
            self.tokenizer.tokens_per_timestep(common.spec),
            memory=memory,
            memory_tokens=memory_tokens,
            window_timesteps=window_timesteps,
            prompt_tokens=prompt_tokens,
            prompt_part=prompt_part,
        )
        if temperature is None:
            temperature = self.recipe.decoding.control_temperature
        sampling = Sampling.of(temperature, top_k, top_p)
        statistics = [meta.statistics for meta in metas] or [{}] * batch
        self._session = None  # its cache goes before there is another one
        self._session = Session(
            source=common,
            ranges=ranges,
            prompts=room.prompts,
            sampling=sampling,
            memory=Memory(batch, memory, room.tokens, room.window, len(ranges), self.meta.vocabulary.padding),
            decoder=Decoder(
                self.meta.model,
                self.params,
                batch,
                room.expected,
                ring=memory == "memory",
                timestep=room.step + room.text,
            ),
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
          source: its source from now on, if another one; it must share spec, window and length of prompts with the
            batch's.

        Raises:
          AgentError: no `reset` before, no such row, no seed, or a source of another embodiment.
          SpecError: the prompt does not match the spec.
        """
        session = self._active()
        if not 0 <= row < session.rows:
            raise AgentError(f"begin: row {row} of {session.rows}")
        draws = automatic_draws(self._seeds) if seed is None else explicit_draws(seed, "begin")
        conditioning = None
        if source is not None:
            meta = self.source(source)[1]
            if batch_key(meta) != batch_key(session.source):
                raise AgentError(
                    f"begin: {source!r} and the batch differ in spec, window or prompt length: use another"
                )
            conditioning = self.recipe.conditioning(meta.statistics)
        tokens = None
        if prompt is not None:
            derived = self.recipe.derived(prompt)
            tokens = tokenize_prompt(prompt, derived, self.tokenizer, session.source.spec, session.prompts)
        session.memory.begin(row, tokens)
        session.conditions.begin(row, target, conditioning)
        session.draws[row] = draws
        self._seeds += seed is None

    def restart(self, rows: Sequence[int], seeds: Sequence[int] | None = None) -> None:
        """New episodes begin in these rows; their prompts stay. With ``seeds`` their draws begin anew as well.

        Raises AgentError: no seeds for all rows.
        """
        session = self._active()
        if seeds is not None and len(seeds) != len(rows):
            raise AgentError(f"restart: {counted(len(seeds), 'seed')} for {counted(len(rows), 'row')}")
        draws = [explicit_draws(seed, "restart") for seed in (() if seeds is None else seeds)]
        for row in rows:
            session.memory.restart(row, session.decoder.capacity)
            session.conditions.restart(row)
        if draws:
            session.draws[list(rows)] = draws

    def release(self) -> None:
        """Gives the cache's memory back. All rows are empty then; a row that begins again compiles nothing again."""
        if self._session is not None:
            self._session.decoder.release()
            for row in range(self._session.rows):
                self._session.memory.begin(row, None)

    def compile(self, rows: Sequence[int]) -> None:
        """Compiles what so many rows need for prompts of any length; nothing is read."""
        session = self._active()
        session.decoder.compile(session.memory, np.asarray(rows, np.int32))

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
          RuntimeError: the device failed, or there is a bug; the rows are lost.
        """
        session = self._active()
        spec, memory = session.source.spec, session.memory
        if isinstance(observations, Mapping):
            raise AgentError("act: observations: wants a list with an observation for each environment, got one alone")
        if len(observations) != session.rows:
            raise AgentError(f"act: {len(observations)} observations for {counted(session.rows, 'environment')}")
        rows = np.array([row for row, observation in enumerate(observations) if observation is not None], np.int32)
        actions: list[Action | None] = [None] * session.rows
        if not len(rows):
            return actions
        stacked = stack_observations(observations, spec)
        conditions = session.conditions
        if self.meta.layout.derived:
            conditions = session.rewarded(rows, rewards, self.meta.recipe)
        derived = {name: conditions.leaf(name, rows) for name in self.meta.layout.derived}
        prefix = self.tokenizer.tokenize(stacked, None, spec, derived)
        # Only now that nothing was refused: the same call with a mended observation counts the rewards once.
        session.conditions = conditions
        memory.observe(rows, prefix)
        try:
            ids, logits, acted = session.decoder.act(
                memory, rows, session.width(prefix), session.ranges, self._key, session.draws[rows], session.sampling
            )
        except GatoError as error:
            # No refusal, after which the same may be tried again: the rows hold this observation already.
            raise RuntimeError(f"a failure while acting, after which reset is needed: {error}") from error
        self._logits = logits, acted
        memory.acted(rows, ids)
        session.draws[rows, 1] += 1
        chosen = split_actions(self.tokenizer.decode_actions(ids, spec), len(rows))
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

    def _active(self) -> Session:
        if self._session is None:
            raise AgentError("act before reset: agent.reset(source, batch=...) says which embodiment")
        return self._session
