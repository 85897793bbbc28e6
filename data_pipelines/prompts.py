"""Prompts: whole timesteps of another episode by the same agent on the same task, put before a window (Gato 2.3).

In the paper a quarter of the sequences is prompted; half of the prompts come from the end of their episode, half from
anywhere. Its length is not stated: here it is uniform from one timestep to half the row, never the same episode.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gato.data_pipelines import draws
from gato.data_pipelines.token_index import TokenIndex

GOLDEN = 0.6180339887498949  # multiples modulo 1 fill [0, 1) evenly, so prompt lengths hardly vary from block to block


@dataclasses.dataclass(frozen=True)
class PromptDraws:
    """One possible prompt for each of n windows, as timesteps ``begin:end`` of `episode`; of -1, ``0:0``: none."""

    episode: np.ndarray
    begin: np.ndarray
    end: np.ndarray


class PromptPool:
    """The episodes that may prompt each other.

    Args:
      episodes: int [m], ascending indices into the store.
      groups: int [N] of the store: task and agent of every episode.
    """

    def __init__(self, episodes: np.ndarray, groups: np.ndarray) -> None:
        order = np.argsort(groups[episodes], kind="stable")
        self._sorted = episodes[order]
        self._rank = np.full(len(groups), -1, np.int64)
        self._rank[self._sorted] = np.arange(len(self._sorted))
        names = groups[self._sorted]
        self._start = np.searchsorted(names, names, side="left")
        self._size = np.searchsorted(names, names, side="right") - self._start

    def partners(self, episodes: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """For each episode (which must be in the pool) another one of its group, uniformly; -1 if it is alone.

        Args:
          episodes: int [n]. draw: float [n] in [0, 1).
        """
        rank = self._rank[episodes]
        start, others = self._start[rank], self._size[rank] - 1
        place = start + np.minimum((draw * others).astype(np.int64), np.maximum(others - 1, 0))
        place += place >= rank  # skip the episode itself
        return np.where(others > 0, self._sorted[np.minimum(place, len(self._sorted) - 1)], -1)


def longest_prompt(index: TokenIndex, episodes: np.ndarray, length: int, timesteps: int | None) -> np.ndarray:
    """int [n]: the most timesteps that a prompt from each of `episodes` may have.

    Half a row; where half a row holds no timestep, one timestep if two fit in the row, else none.
    """
    widest = index.widest[episodes]
    most = np.where(widest * 2 <= length, np.maximum(length // 2 // widest, 1), 0)
    most = np.minimum(most, index.units[episodes])
    return most if timesteps is None else np.minimum(most, timesteps)


def draw_prompts(
    pool: PromptPool, index: TokenIndex, episodes: np.ndarray, length: int, timesteps: int | None, *key: object
) -> PromptDraws:
    """A prompt for each window.

    Args:
      episodes: int [n], the episode of each window.
      length: tokens in a row. timesteps: at most so many timesteps; None for half a row.
      key: of the random draws.
    """
    n = len(episodes)
    partner = pool.partners(episodes, draws.uniform(n, *key, "partner"))
    most = np.where(partner >= 0, longest_prompt(index, partner, length, timesteps), 0)
    shift = draws.uniform(1, *key, "length")
    steps = 1 + np.floor((shift + np.arange(n) * GOLDEN) % 1.0 * most).astype(np.int64)
    steps = np.minimum(steps, most)
    last = index.units[partner] - steps
    anywhere = np.floor(draws.uniform(n, *key, "start") * (last + 1)).astype(np.int64)
    begin = np.where(draws.bits(n, *key, "from the end") & np.uint64(1) == 1, last, anywhere)
    there = steps > 0
    begin = np.where(there, begin, 0)
    return PromptDraws(np.where(there, partner, -1), begin, begin + steps)
