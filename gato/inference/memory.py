"""What each row remembers, and what of it the cache holds: bookkeeping on the host, each row for itself.

Three modes say what happens when a row is full:

    mode      what the next action sees                                            price
    window    its prompt and the last timesteps, as a training row: at most w      setting back reads w // 2 timesteps,
              timesteps and L tokens; a full row is set back to its prompt and     every w // 2 timesteps
              the newest half of its timesteps
    sliding   exactly the last L tokens, the prompt being the first to go: equal   once full, every timestep reads L
              to a full forward pass over them                                     tokens again
    memory    Transformer-XL memory: every token sees the M tokens before it as    none: nothing is read twice
              they were computed, and through them further back

In the first two a row is longer than L tokens, by default those of a training row, only where a single timestep is, in
`window` together with the prompt. A full forward over the last L tokens cannot be had from a cache that slides: what
the deeper layers computed of a token depends on all that stood before it, also on what has left the window. So
`sliding` computes its window anew; `memory` is what the paper deploys.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gato.inference.history import History
from gato.tokenizers.token_sequence import ACTION_POSITION, TokenSequence

Mode = Literal["window", "sliding", "memory"]
MODES: tuple[Mode, ...] = ("window", "sliding", "memory")


class Memory:
    """The rows' tokens and how far each has been read into the cache.

    Args:
      rows: B.
      mode: see above.
      tokens: L, most tokens of a row in modes window and sliding (one timestep is always held, however long).
      window: w, most timesteps of a row behind its prompt in mode window, the current one included; None: as many as
        fit.
      action_tokens: A, tokens of one action.
      padding: id behind a row's end.

    Attributes:
      history: the tokens: what the row sees, or, in mode memory, its prompt and what has not been read yet.
      read: int32 [B], how many of the history's tokens have been read.
      positions: int32 [B], tokens of each row in the cache: the position of the next one that is read.
      timesteps: int32 [B], timesteps acted in since the row's episode began.
    """

    def __init__(
        self, rows: int, mode: Mode, tokens: int, window: int | None, action_tokens: int, padding: int
    ) -> None:
        self._mode, self._tokens, self._window, self._action_tokens = mode, tokens, window, action_tokens
        self.history = History(rows, padding)
        self.read = np.zeros(rows, np.int32)
        self.positions = np.zeros(rows, np.int32)
        self.timesteps = np.zeros(rows, np.int32)
        self._prompts: list[TokenSequence | None] = [None] * rows
        self._starts: list[list[int]] = [[] for _ in range(rows)]  # where timesteps behind the prompt begin

    def begin(self, row: int, prompt: TokenSequence | None) -> None:
        """A new episode behind a new prompt: nothing else stays."""
        self._prompts[row] = prompt
        self._clear(row)

    def restart(self, row: int, capacity: int) -> None:
        """A new episode behind the same prompt, which need not be read again if a cache of `capacity` still has it."""
        prompt = self._prompt_tokens(row)
        if self._mode == "sliding" or self.positions[row] > capacity:
            self._clear(row)
            return
        self.history.cut(row, prompt, int(self.history.lengths[row]))
        self._starts[row] = []
        self.read[row] = self.positions[row] = min(prompt, self.read[row])
        self.timesteps[row] = 0

    def observe(self, rows: np.ndarray, prefix: TokenSequence) -> None:
        """The tokens before the action of a new timestep: timestep i of ``prefix`` belongs to row ``rows[i]``."""
        counts = np.diff(prefix.timestep_starts)
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            self._make_room(row, count + self._action_tokens)
            self._starts[row].append(int(self.history.lengths[row]))
        self.history.append(rows[prefix.timestep], prefix)

    def unread(self, rows: np.ndarray) -> np.ndarray:
        """int32 [n], tokens of each row that the cache does not hold yet."""
        return self.history.lengths[rows] - self.read[rows]

    def advance(self, rows: np.ndarray, counts: np.ndarray | int) -> None:
        """So many more tokens were read."""
        self.read[rows] += counts
        self.positions[rows] += counts

    def acted(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """The timestep's action [n, A] is chosen; all of its tokens but the last were read."""
        self.history.append_ids(rows, actions, ACTION_POSITION)
        self.advance(rows, actions.shape[1] - 1)
        self.timesteps[rows] += 1
        if self._mode == "memory":
            for row in rows.tolist():
                self.history.cut(row, self._prompt_tokens(row), int(self.read[row]))
                self.read[row] = self._prompt_tokens(row)

    def keep(self, rows: np.ndarray) -> None:
        """Row ``rows[i]`` becomes row i; the others go."""
        self.history.keep(rows)
        self.read, self.positions, self.timesteps = self.read[rows], self.positions[rows], self.timesteps[rows]
        self._prompts = [self._prompts[row] for row in rows]
        self._starts = [self._starts[row] for row in rows]

    def _clear(self, row: int) -> None:
        self.history.cut(row, 0, int(self.history.lengths[row]))
        self.read[row] = self.positions[row] = self.timesteps[row] = 0
        self._starts[row] = []
        prompt = self._prompts[row]
        if prompt is not None:
            self.history.append(np.full(len(prompt), row), prompt)

    def _prompt_tokens(self, row: int) -> int:
        prompt = self._prompts[row]
        return 0 if prompt is None else len(prompt)

    def _make_room(self, row: int, needed: int) -> None:
        """Forgets what the row may not hold beside ``needed`` more tokens of one timestep."""
        length = int(self.history.lengths[row])
        if self._mode == "memory":
            self._starts[row] = []
        elif self._mode == "sliding":
            excess = min(length, length + needed - self._tokens)
            if excess > 0:
                self.history.cut(row, 0, excess)
                self.read[row] = self.positions[row] = 0
        else:
            starts, prompt = self._starts[row], self._prompt_tokens(row)
            if length + needed <= self._tokens and (self._window is None or len(starts) < self._window):
                return
            if not starts:  # prompt and timestep are too long together: held all the same
                return
            kept = len(starts) // 2
            while kept and prompt + length - starts[-kept] + needed > self._tokens:
                kept -= 1
            first = starts[-kept] if kept else length
            self.history.cut(row, prompt, first)
            self._starts[row] = [start - (first - prompt) for start in starts[len(starts) - kept :]]
            self.read[row] = self.positions[row] = min(prompt, self.read[row])
