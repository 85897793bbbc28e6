"""A demonstration as a prompt: which of its timesteps are shown, as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.token_sequence import TokenSequence

PromptPart = Literal["end", "beginning"]


def prompt_tokens(
    episode: Episode,
    derived: Mapping[str, np.ndarray],
    tokenizer: SequenceTokenizer,
    spec: EpisodeSpec,
    timesteps: int | None,
    budget: int,
    part: PromptPart,
) -> TokenSequence:
    """Whole timesteps of one end of a demonstration, at least one.

    Args:
      derived: the recipe's values of each timestep of the episode.
      timesteps: how many are shown, as in training; None: as many as the budget holds.
      budget: most tokens, where more than one timestep is shown.
    """
    count = timesteps or max(1, budget // tokenizer.tokens_per_timestep(spec))
    shown = slice(-count, None) if part == "end" else slice(count)
    sequence = tokenizer.tokenize(
        {path: values[shown] for path, values in episode.observations.items()},
        {path: values[shown] for path, values in episode.actions.items()},
        spec,
        {name: values[shown] for name, values in derived.items()},
    )
    starts = sequence.timestep_starts
    if part == "end":
        over = int(np.searchsorted(starts, len(sequence) - budget))
        return sequence.slice(min(over, len(starts) - 2), len(starts) - 1)
    fits = int(np.searchsorted(starts, budget, side="right")) - 1
    return sequence.slice(0, max(fits, 1))
