"""Breakout, one of the games of `ale`, with observations of its own.

One observation holds what a player must see to tell where the ball is going: the greyscale pictures of the last three
decisions, as the three channels of one image (newest first). Only the field is shown, without walls and score, at 32x48
pixels: a timestep has 6 patches, and ball and paddle often share one. A pixel is the brightest of the 5x3 that it
stands for, because the ball (2x4 pixels of the console) would be a faint shade of their mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.environments.ale import GameEnvironment
from gato.data_pipelines.environments.base import Action, Observation, Task
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.breakout import BALL_Y, BreakoutExpert
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

HEIGHT, WIDTH = 32, 48
_FIRE = 1  # Of ALE's minimal action set for Breakout: NOOP, FIRE, RIGHT, LEFT.
MAX_STEPS = 2000  # Decisions; five lives of a good player end at about 1,200.
_TOP, _LEFT = 34, 8  # Corner of the field on the console's 210x160 screen.
_CELL = (5, 3)  # The console's pixels, rows and columns, under one of ours.
_BRIGHTEST = 148  # Of the greys that this game draws; stretched to 255, for the ball is dark (110) and thin.
_STRETCH = np.minimum(255, 255 * np.arange(256) // _BRIGHTEST).astype(np.uint8)


class BreakoutEnvironment(GameEnvironment):
    """A whole game (five lives) an episode; the reward is the game's score.

    Without a ball in play the console gets FIRE whatever the action, as is usual for this game: serving is no
    skill, and a player that never serves would never be seen to play.

    Args:
      blank: a control: every observation is an empty image. What a policy scores then, it scores without seeing.
    """

    def __init__(self, blank: bool = False) -> None:
        super().__init__("breakout", MAX_STEPS)
        self.spec = EpisodeSpec.of({"image": LeafSpec("image", (HEIGHT, WIDTH, 3))}, self.spec.actions)
        self._blank = blank
        self._pictures: list[np.ndarray] = []  # The newest first.

    def reset(self, seed: int) -> Observation:
        self._pictures = []
        return super().reset(seed)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        ball_in_play = self.ram[BALL_Y] > 0
        return super().step(action if ball_in_play else {"action": np.asarray(_FIRE)})

    def _observation(self) -> Observation:
        picture = self._picture()
        self._pictures = [picture, *self._pictures[:2]] if self._pictures else [picture] * 3
        image = np.dstack(self._pictures)
        return {"image": np.zeros_like(image) if self._blank else image}

    def _picture(self) -> np.ndarray:
        """Uint8 [32, 48]: the brightest pixel of each cell."""
        field = self._console.getScreenGrayscale()[_TOP : _TOP + HEIGHT * _CELL[0], _LEFT : _LEFT + WIDTH * _CELL[1]]
        return _STRETCH[field.reshape(HEIGHT, _CELL[0], WIDTH, _CELL[1]).max(axis=(1, 3))]


def make_task(name: str) -> Task:
    """The task "atari/breakout"; ``make(blank=True)`` hides the screen."""
    return Task(
        name=name,
        make=BreakoutEnvironment,
        expert=lambda environment, rng: BreakoutExpert(environment),
        metric="return",
        max_steps=MAX_STEPS,
        noise=(0.0, 0.1, 0.3),
        controls={"blank": {"blank": True}},
    )


SUITE = Suite(
    name="atari",
    description="Atari Breakout made small for the starter mixture",
    task_names=lambda: ["atari/breakout"],
    make_task=make_task,
    packages=("ale_py",),
    extra="ale",
)
