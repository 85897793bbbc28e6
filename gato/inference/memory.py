"""What each row of the cache holds: its prompt and the last timesteps, as the network saw them in training.

A training segment is a prompt (sometimes) and a window of w consecutive timesteps. Acting keeps to that: a row holds
its prompt and at most w timesteps. Positions in the cache are absolute and a cache that slides would give every new
timestep the same ones; so when a row is full, the cache is set back to the prompt's end and the newest w // 2 timesteps
are appended again behind it (w = 1: every timestep starts right behind the prompt). Setting back costs nothing.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from gato.inference.chunk import Piece


@dataclasses.dataclass(frozen=True)
class _Step:
    """One past timestep of all rows: its tokens up to the action, and the action's tokens [rows, A]."""

    prefix: Piece
    actions: np.ndarray


class Memory:
    """Bookkeeping of the B rows of one cache; plain numpy, the cache itself is elsewhere.

    Args:
      prompt_lengths: int32 [B], tokens of each row's prompt, which are in the cache.
      window: timesteps that a row may hold behind its prompt, the current one included; None: as many as the budget
        holds.
      budget: tokens of a training row; prompt and timesteps stay within it (one timestep is always held).
      action_tokens: A, tokens of one action.

    Attributes:
      lengths: int32 [B], tokens of each row in the cache that count; what lies behind is overwritten.
      ages: int32 [B], timesteps of each row behind its prompt.
    """

    def __init__(self, prompt_lengths: np.ndarray, window: int | None, budget: int, action_tokens: int) -> None:
        self._window, self._budget, self._action_tokens = window, budget, action_tokens
        self.prompt_lengths = prompt_lengths.astype(np.int32)
        self.lengths = self.prompt_lengths.copy()
        self.ages = np.zeros(len(prompt_lengths), np.int32)
        self._past: collections.deque[_Step] = collections.deque()
        self._widest = 0  # tokens before the action of the longest timestep so far

    @property
    def batch(self) -> int:
        return len(self.lengths)

    def window(self, prefix_tokens: int) -> int:
        """Timesteps that a row may hold when one has ``prefix_tokens`` tokens before its action; at least 1.

        Where texts differ in length, all timesteps count as the longest so far, so that what a row holds always fits.
        """
        widest = max(self._widest, prefix_tokens)
        fits = (self._budget - int(self.prompt_lengths.max())) // (widest + self._action_tokens)
        return max(1, fits if self._window is None else min(fits, self._window))

    def tokens(self, prefix_tokens: int) -> int:
        """Most tokens that a row ever holds then."""
        step = max(self._widest, prefix_tokens) + self._action_tokens
        return int(self.prompt_lengths.max()) + self.window(prefix_tokens) * step

    def chunk(self, prefix: Piece, prefix_tokens: int) -> list[Piece]:
        """What to append for a new timestep whose tokens before the action are ``prefix``; sets `lengths` and `ages`.

        One full row sets all rows back, so that all rows of a batch go on in step.
        """
        self._widest = max(self._widest, prefix_tokens)
        window = self.window(prefix_tokens)
        kept = min(window // 2, len(self._past))  # timesteps that are appended again when a row is full
        pieces = []
        if self.ages.max() < window:
            if self._past:  # the last action's last token was sampled but not appended yet
                pieces.append(Piece.of_actions(self._past[-1].actions[:, -1:]).take(self.ages > 0))
        else:
            self.lengths = self.prompt_lengths.copy()
            self.ages = np.minimum(self.ages, kept)
            for back in range(kept, 0, -1):
                step, rows = self._past[-back], self.ages >= back
                pieces += [step.prefix.take(rows), Piece.of_actions(step.actions).take(rows)]
        while len(self._past) > max(1, window // 2):
            self._past.popleft()
        return [*pieces, prefix]

    def remember(self, prefix: Piece, actions: np.ndarray, appended: np.ndarray) -> None:
        """Notes the finished timestep: ``appended`` [B] chunk tokens, then all but the last of ``actions`` [B, A]."""
        self.lengths = self.lengths + appended + np.int32(actions.shape[1] - 1)
        self.ages = self.ages + np.int32(1)
        self._past.append(_Step(prefix, actions))

    def restart(self, rows: np.ndarray) -> None:
        """A new episode begins in ``rows``: only their prompt stays."""
        self.lengths[rows] = self.prompt_lengths[rows]
        self.ages[rows] = 0

    def keep(self, rows: np.ndarray) -> None:
        """Row ``rows[i]`` (ascending) becomes row i; the others go."""
        past = [_Step(step.prefix.keep(rows, self.batch), step.actions[rows]) for step in self._past]
        self._past = collections.deque(past)
        self.prompt_lengths, self.lengths, self.ages = self.prompt_lengths[rows], self.lengths[rows], self.ages[rows]
