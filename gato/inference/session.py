"""A batch of environments of one embodiment: what its rows share, how much they hold, and what they keep between calls.

`Agent.reset` opens a session; what it may be asked for is checked here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gato.inference.conditions import Conditions
from gato.inference.decoder import Decoder
from gato.inference.memory import MODES, Memory, Mode
from gato.inference.prompt import PARTS, PromptPart, PromptRules
from gato.inference.sampler import Ranges
from gato.inference.sampling import Sampling
from gato.tokenizers.errors import GatoError, SpecError
from gato.tokenizers.layout import Layout
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.token_sequence import TokenSequence
from gato.training.checkpoint_meta import SourceMeta

# Observations with text vary in length; rounding keeps the number of compiled shapes small.
TEXT_ROUNDING = 16
# Tokens of a timestep's texts that a row, and the call that reads a timestep, have room for from the start. With longer
# ones the row grows, and every program has to be compiled again.
USUAL_TEXT = 32


class AgentError(GatoError):
    """The agent was asked for what its checkpoint or its state does not have."""


@dataclasses.dataclass
class Session:
    """What `Agent.reset` sets up; lists and arrays have one entry a row.

    Attributes:
      source: what all rows share.
      ranges: legal ids of each action token.
      prompts: what of a demonstration is shown.
      draws: uint32 [B, 2], see `gato.inference.draws`.
    """

    source: SourceMeta
    ranges: Ranges
    prompts: PromptRules
    sampling: Sampling
    memory: Memory
    decoder: Decoder
    conditions: Conditions
    draws: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.draws)

    def rewarded(
        self, rows: np.ndarray, rewards: Sequence[float | None] | np.ndarray | None, recipe: str
    ) -> Conditions:
        """The conditions after the rewards of those of the ``rows`` that have acted. AgentError: one is missing."""
        acted = rows[self.memory.timesteps[rows] > 0].tolist()
        given = [None if rewards is None else rewards[row] for row in acted]
        known = [float(reward) for reward in given if reward is not None]
        if len(known) < len(acted):
            raise AgentError(f"recipe {recipe!r} conditions on rewards: act(observations, rewards=...)")
        return self.conditions.after(acted, known)

    def width(self, prefix: TokenSequence) -> int:
        """Tokens of the chunk that reads these observations, each behind the last token of the action before it.

        Without text it is always the same. With text it is that of the longest of these, rounded: a long text widens
        the call that reads it and no other.
        """
        longest = 1 + int(np.diff(prefix.timestep_starts).max())
        return -(-longest // TEXT_ROUNDING) * TEXT_ROUNDING if has_text(self.source.spec) else longest


def has_text(spec: EpisodeSpec) -> bool:
    """Whether observations of this embodiment differ in length."""
    return any(leaf.modality == "text" for leaf in spec.observations.values())


def batch_key(source: SourceMeta) -> tuple[Any, ...]:
    """What environments of one batch must share."""
    return source.spec, source.window_timesteps, source.prompt_timesteps


def common_source(names: Sequence[str], metas: Sequence[SourceMeta], spec: EpisodeSpec | None) -> SourceMeta:
    """What the rows of a batch share: their sources' spec (or ``spec`` in its place), window and length of prompts.

    Raises AgentError: there is nothing to act in, or the sources differ.
    """
    if metas:
        common = metas[0] if spec is None else dataclasses.replace(metas[0], spec=spec)
    elif spec is not None:
        common = SourceMeta(spec)
    else:
        raise AgentError("reset needs the name of a source, or the spec of a new embodiment: reset(spec=...)")
    for name, meta in zip(names, metas, strict=True):
        if batch_key(meta) != batch_key(metas[0]):
            raise AgentError(
                f"reset: {name!r} and the first source differ in spec, window or prompt length: use two batches"
            )
    if common.spec.kind != "control" or not common.spec.actions:
        raise AgentError(
            f"source {names[0] if names else 'of this spec'!r} has no actions; text is written by `generate`"
        )
    return common


def check_layout(layout: Layout) -> None:
    """Raises SpecError if a timestep does not end with its action."""
    if layout.timestep[-1] != "action":
        raise SpecError(
            f"layout part {layout.timestep[-1]!r} stands after the action, where its value is not known while "
            "acting; let it stand before the next observation"
        )


@dataclasses.dataclass(frozen=True)
class Room:
    """How much a row holds.

    Attributes:
      mode: what happens when it is full, see `memory`.
      tokens: most tokens of a row, or (mode "memory") that a token sees.
      window: most timesteps behind the prompt in mode "window"; None: as many as fit.
      prompts: what of a demonstration is shown.
      step: tokens of a timestep without its texts, which are not known yet.
      text: tokens that its texts usually have at most.
    """

    mode: Mode
    tokens: int
    window: int | None
    prompts: PromptRules
    step: int
    text: int

    @staticmethod
    def of(
        source: SourceMeta,
        row: int,
        step: int,
        *,
        memory: Mode,
        memory_tokens: int | None,
        window_timesteps: int | None,
        prompt_tokens: int | None,
        prompt_part: PromptPart,
    ) -> Room:
        """Of the arguments of `Agent.reset`. ``row``: tokens of a training row.

        Raises AgentError: no such mode, too little for one timestep, or arguments that contradict each other.
        """
        if memory not in MODES:
            raise AgentError(f"reset: memory is one of {', '.join(MODES)}; got {memory!r}")
        if prompt_part not in PARTS:
            raise AgentError(f"reset: prompt_part is one of {', '.join(PARTS)}; got {prompt_part!r}")
        if memory != "window" and window_timesteps is not None:
            raise AgentError(f"reset: window_timesteps belongs to memory='window', not to {memory!r}")
        window = source.window_timesteps if window_timesteps is None else window_timesteps
        if window is not None and window < 1:
            raise AgentError(f"reset: window_timesteps must be at least 1, got {window}")
        tokens = row if memory_tokens is None else memory_tokens
        if tokens < step:
            raise AgentError(f"reset: memory_tokens must be at least {step}, one timestep of this spec; got {tokens}")
        budget = prompt_budget(row, memory, prompt_tokens, tokens)
        timesteps = source.prompt_timesteps if prompt_tokens is None else None
        text = USUAL_TEXT * has_text(source.spec)
        return Room(memory, tokens, window, PromptRules(budget, timesteps, prompt_part), step, text)

    @property
    def expected(self) -> int:
        """Most tokens of a row (of a token's sight) as long as no text is long."""
        if self.mode != "window" or self.window is None:
            return self.tokens
        step = self.step + self.text
        prompt = min(self.prompts.tokens, (self.prompts.timesteps or self.tokens) * step)
        return min(self.tokens, prompt + self.window * step)


def prompt_budget(row: int, memory: Mode, asked: int | None = None, tokens: int | None = None) -> int:
    """Most tokens of a prompt.

    Args:
      row: tokens of a training row, of which prompts filled at most half.
      memory: in mode "window" the prompt stays in front of the episode, as in training; in the others it leaves in
        time, so it may fill the memory.
      asked: what the caller wants instead of training's.
      tokens: of the memory; None: a training row's.

    Raises AgentError: too many or too few are asked for.
    """
    tokens = row if tokens is None else tokens
    usual = min(row // 2, tokens)
    if asked is None:
        return usual
    if asked < 1:
        raise AgentError(f"prompt_tokens must be at least 1, got {asked}")
    most = usual if memory == "window" else tokens
    if asked > most:
        way = f"; memory='memory' takes up to {tokens}" if memory == "window" else ""
        raise AgentError(f"prompt_tokens is {asked}, but memory={memory!r} takes at most {most}{way}")
    return asked
