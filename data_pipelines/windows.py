"""The plan of one epoch of one source: every unit of every episode exactly once, in windows, in random order.

Each episode longer than a window is cut into windows from a random offset, so a sub-sequence may start at any timestep
and episodes count in proportion to their length. Because the windows of an epoch partition the data, an epoch always
has the same number of window tokens: the epoch and the place in it follow from a position by division, and nothing
depends on what was drawn before. Prompts come on top.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gato.data_pipelines import draws
from gato.data_pipelines.prompts import PromptPool, draw_prompts
from gato.data_pipelines.token_index import TokenIndex


@dataclasses.dataclass(frozen=True)
class WindowRules:
    """How the episodes of a source are cut and prompted.

    Attributes:
      length: tokens in a row.
      window: units in a window at most; None for as many as a row holds.
      prompt_probability: share of the sequences that have a prompt.
      prompt_timesteps: timesteps of a prompt at most; None for half a row.
    """

    length: int
    window: int | None
    prompt_probability: float
    prompt_timesteps: int | None


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """M sequences in the order of an epoch. Ranges are token offsets within an episode, int64 [M].

    Attributes:
      episode, begin, end: the window.
      prompt_episode, prompt_begin, prompt_end: the prompt; episode -1 and an empty range where there is none.
      before: int64 [M + 1]: window tokens of the epoch before each sequence; the last entry is the epoch's total.
    """

    episode: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    prompt_episode: np.ndarray
    prompt_begin: np.ndarray
    prompt_end: np.ndarray
    before: np.ndarray

    @property
    def prompt_tokens(self) -> int:
        return int(np.sum(self.prompt_end - self.prompt_begin))


def cut(units: np.ndarray, window: np.ndarray, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts episodes into windows from a random offset.

    Args:
      units: int [n] >= 1. window: int [n] >= 1, units in a window. draw: float [n] in [0, 1).

    Returns:
      (which episode, start, stop), int64 [m] each: the windows of an episode partition ``0..units``.
    """
    first = np.where(units > window, np.floor(draw * window).astype(np.int64), 0)  # length of a short first window
    first = np.where(first == 0, np.minimum(window, units), first)
    counts = 1 + -(-(units - first) // window)
    which = np.repeat(np.arange(len(units)), counts)
    number = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    stop = np.minimum(first[which] + number * window[which], units[which])
    start = np.where(number == 0, 0, first[which] + (number - 1) * window[which])
    return which, start, stop


def plan_epoch(
    index: TokenIndex, episodes: np.ndarray, pool: PromptPool, rules: WindowRules, *key: object
) -> EpochPlan:
    """The sequences of one epoch, a pure function of its arguments.

    Args:
      episodes: int [n], the store's episodes that take part; their `widest` unit fits in a row.
      pool: episodes that may prompt. key: of the random draws: seed, source, epoch.
    """
    widest = index.widest[episodes]
    window = rules.length // widest
    if rules.window is not None:
        window = np.minimum(window, rules.window)
    which, start, stop = cut(index.units[episodes], window, draws.uniform(len(episodes), *key, "offset"))
    order = draws.permutation(len(which), *key, "order")
    episode, start, stop = episodes[which[order]], start[order], stop[order]
    if rules.prompt_probability > 0:
        return _with_prompts(index, episode, start, stop, pool, rules, key)
    nothing = np.zeros(len(episode), np.int64)
    return _plan(index, episode, start, stop, nothing - 1, nothing, nothing)


def _with_prompts(
    index: TokenIndex,
    episode: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    pool: PromptPool,
    rules: WindowRules,
    key: tuple[object, ...],
) -> EpochPlan:
    """Puts prompts before a share of the windows; what a prompt pushes out of the row becomes a sequence of its own."""
    prompts = draw_prompts(pool, index, episode, rules.length, rules.prompt_timesteps, *key)
    begin = index.tokens_before(prompts.episode, prompts.begin)
    end = index.tokens_before(prompts.episode, prompts.end)
    kept = np.minimum(stop - start, (rules.length - (end - begin)) // index.widest[episode])
    possible = (prompts.episode >= 0) & (kept > 0)
    cut_short = possible & (kept < stop - start)
    # A window that a prompt cuts in two yields two sequences, so more windows are prompted to keep the share of
    # sequences.
    splits = cut_short.sum() / max(possible.sum(), 1)
    share = min(1.0, rules.prompt_probability / max(1 - rules.prompt_probability * splits, 1e-9))
    # Every 1/share-th window of the random order, which keeps the tokens of any stretch of the epoch nearly constant.
    places = np.floor(np.arange(len(episode) + 1) * share + draws.uniform(1, *key, "prompted"))
    prompted = (np.diff(places) > 0) & possible
    cut_short &= prompted
    copies = np.repeat(np.arange(len(episode)), 1 + cut_short)
    rest = np.concatenate([[False], copies[1:] == copies[:-1]])
    middle = np.where(cut_short, start + kept, stop)
    prompted = prompted[copies] & ~rest
    return _plan(
        index,
        episode[copies],
        np.where(rest, middle[copies], start[copies]),
        np.where(rest, stop[copies], middle[copies]),
        np.where(prompted, prompts.episode[copies], -1),
        np.where(prompted, begin[copies], 0),
        np.where(prompted, end[copies], 0),
    )


def _plan(
    index: TokenIndex,
    episode: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    prompt_episode: np.ndarray,
    prompt_begin: np.ndarray,
    prompt_end: np.ndarray,
) -> EpochPlan:
    begin, end = index.tokens_before(episode, start), index.tokens_before(episode, stop)
    before = np.concatenate([[0], np.cumsum(end - begin)])
    return EpochPlan(episode, begin, end, prompt_episode, prompt_begin, prompt_end, before)
