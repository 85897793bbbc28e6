"""A demonstration as a prompt: which of its timesteps are shown, as tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.token_sequence import TokenSequence

PromptPart = Literal["end", "beginning"]
PARTS: tuple[PromptPart, ...] = ("end", "beginning")


@dataclasses.dataclass(frozen=True)
class PromptRules:
    """How much of a demonstration is shown: whole timesteps, at least one.

    Attributes:
      tokens: at most so many, where more than one timestep is shown.
      timesteps: at most so many; None: as many as the tokens hold.
      part: which end of the demonstration.
    """

    tokens: int
    timesteps: int | None
    part: PromptPart


def tokenize_prompt(
    episode: Episode,
    derived: Mapping[str, np.ndarray],
    tokenizer: SequenceTokenizer,
    spec: EpisodeSpec,
    rules: PromptRules,
) -> TokenSequence:
    """What is shown of a demonstration. ``derived``: the recipe's values of each timestep of the episode."""
    count = rules.timesteps or max(1, rules.tokens // tokenizer.tokens_per_timestep(spec))
    shown = slice(-count, None) if rules.part == "end" else slice(count)
    sequence = tokenizer.tokenize(
        {path: values[shown] for path, values in episode.observations.items()},
        {path: values[shown] for path, values in episode.actions.items()},
        spec,
        {name: values[shown] for name, values in derived.items()},
    )
    starts = sequence.timestep_starts
    if rules.part == "end":
        over = int(np.searchsorted(starts, len(sequence) - rules.tokens))
        return sequence.slice(min(over, len(starts) - 2), len(starts) - 1)
    fits = int(np.searchsorted(starts, rules.tokens, side="right")) - 1
    return sequence.slice(0, max(fits, 1))
