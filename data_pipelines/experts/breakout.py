"""The Breakout expert: a script that meets the falling ball and waits in the middle while the ball rises.

It reads positions from the console's memory, aims where the ball will be one decision later, and leaves a margin. So
its answer is a function of what the observation shows, the last pictures, and mostly depends on them only coarsely: a
script that always stays below the ball plays no better and is much harder to learn from pixels. Addresses: Anand et al.
2019, "Unsupervised State Representation Learning in Atari" (AtariARI).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation

BALL_X, BALL_Y, PADDLE_X = 99, 101, 72  # Addresses; the values are the console's pixels.
_PADDLE_CENTRE = 8  # From the paddle's address to its middle; it is 16 wide.
_MIDDLE = 128  # Of the field, in the same units.
_BALL_MARGIN, _MIDDLE_MARGIN = 8, 16
_NOOP, _, _RIGHT, _LEFT = range(4)  # ALE's minimal action set.


class _Console(Protocol):
    @property
    def ram(self) -> np.ndarray: ...


class BreakoutExpert:
    """The policy of one game; reads the memory, not the image."""

    def __init__(self, environment: _Console) -> None:
        self._environment = environment
        self._last_ball: tuple[int, int] | None = None

    def __call__(self, observation: Observation) -> Action:
        return {"action": np.asarray(self._choose())}

    def _choose(self) -> int:
        memory = self._environment.ram
        x, y, paddle = int(memory[BALL_X]), int(memory[BALL_Y]), int(memory[PADDLE_X]) + _PADDLE_CENTRE
        if y == 0:  # No ball in play: the environment serves one.
            self._last_ball = None
            return _NOOP
        last_x, last_y = self._last_ball or (x, y)
        self._last_ball = (x, y)
        falls = y > last_y
        aim, margin = (2 * x - last_x, _BALL_MARGIN) if falls else (_MIDDLE, _MIDDLE_MARGIN)
        if abs(aim - paddle) <= margin:
            return _NOOP
        return _RIGHT if aim > paddle else _LEFT
