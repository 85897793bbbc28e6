"""The Breakout expert: a script that follows the ball with the paddle, reading positions from the console's memory.

It aims where the ball will be one decision later and leaves a margin on both sides, so its answer is a function of what
the observation shows (the last pictures), and a network can learn it. Addresses: Anand et al. 2019, "Unsupervised State
Representation Learning in Atari" (AtariARI).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation

_BALL_X, _BALL_Y, _PADDLE_X = 99, 101, 72
_PADDLE_CENTRE = 8  # From the address of the paddle to the middle of the paddle, in the memory's units (pixels).
_MARGIN = 6  # Pixels that the ball may be off the paddle's middle; the paddle is 16 wide and moves fast.
_NOOP, _FIRE, _RIGHT, _LEFT = range(4)


class _Console(Protocol):
    @property
    def ram(self) -> np.ndarray: ...


class BreakoutExpert:
    """The policy of one game; reads the memory, not the image."""

    def __init__(self, environment: _Console) -> None:
        self._environment = environment
        self._last_x: int | None = None

    def __call__(self, observation: Observation) -> Action:
        return {"action": np.asarray(self._choose())}

    def _choose(self) -> int:
        ball_x, ball_y, paddle_x = (int(self._environment.ram[at]) for at in (_BALL_X, _BALL_Y, _PADDLE_X))
        if ball_y == 0:  # No ball in play: serve one.
            self._last_x = None
            return _FIRE
        speed = 0 if self._last_x is None else ball_x - self._last_x
        self._last_x = ball_x
        off = ball_x + speed - (paddle_x + _PADDLE_CENTRE)
        if abs(off) <= _MARGIN:
            return _NOOP
        return _RIGHT if off > 0 else _LEFT
