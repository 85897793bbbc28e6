"""Atari Breakout (ale-py) as the v5 environments set it up: frame skip 4, sticky actions 0.25, minimal action set.

One observation holds what a player must see to tell where the ball is going: the greyscale pictures of the last three
decisions, as the three channels of one image (newest first). Only the field is shown, without walls and score, at 32x48
pixels: a timestep has 6 patches, and ball and paddle often share one. A pixel is the brightest of the 5x3 that it
stands for, because the ball (2x4 pixels of the console) would be a faint shade of their mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Task, import_package
from gato.data_pipelines.environments.references import reference_scores
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.breakout import BALL_Y, BreakoutExpert
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

if TYPE_CHECKING:
    import ale_py

HEIGHT, WIDTH = 32, 48
ACTIONS = ("NOOP", "FIRE", "RIGHT", "LEFT")  # ALE's minimal action set for Breakout, in its order.
MAX_STEPS = 2000  # Decisions; five lives of a good player end at about 1,200.
_FRAME_SKIP, _STICKY = 4, 0.25
_TOP, _LEFT = 34, 8  # Corner of the field on the console's 210x160 screen.
_CELL = (5, 3)  # The console's pixels, rows and columns, under one of ours.
_BRIGHTEST = 148  # Of the greys that this game draws; stretched to 255, for the ball is dark (110) and thin.
_STRETCH = np.minimum(255, 255 * np.arange(256) // _BRIGHTEST).astype(np.uint8)


class BreakoutEnvironment:
    """A whole game (five lives) an episode; the reward is the game's score.

    Without a ball in play the console gets FIRE whatever the action, as is usual for this game: serving is no
    skill, and a player that never serves would never be seen to play.

    Args:
      blank: a control: every observation is an empty image. What a policy scores then, it scores without seeing.
    """

    spec = EpisodeSpec.of({"image": LeafSpec("image", (HEIGHT, WIDTH, 3))}, LeafSpec("discrete", values=len(ACTIONS)))

    def __init__(self, blank: bool = False) -> None:
        self._ale_py = import_package("ale_py", "ale")
        self._ale_py.ALEInterface.setLoggerMode(self._ale_py.LoggerMode.Error)
        self._console: ale_py.ALEInterface = self._ale_py.ALEInterface()
        self._console.setInt("frame_skip", _FRAME_SKIP)
        self._console.setFloat("repeat_action_probability", _STICKY)
        self._actions = [getattr(self._ale_py.Action, name) for name in ACTIONS]
        self._blank = blank
        self._image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self._steps = 0

    @property
    def ram(self) -> np.ndarray:
        """The console's memory, uint8 [128]: what the scripted expert reads."""
        return self._console.getRAM()

    def reset(self, seed: int) -> Observation:
        self._console.setInt("random_seed", seed)
        self._console.loadROM(self._ale_py.roms.get_rom_path("breakout"))  # The seed counts from here on.
        self._steps = 0
        self._image = np.repeat(self._picture()[:, :, None], 3, axis=2)
        return self._observation()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        chosen = self._actions[int(action["action"])]
        ball_in_play = self._console.getRAM()[BALL_Y] > 0
        reward = self._console.act(chosen if ball_in_play else self._ale_py.Action.FIRE)
        self._steps += 1
        self._image = np.dstack([self._picture(), self._image[:, :, :2]])
        over = self._console.game_over()
        return self._observation(), float(reward), over, self._steps >= MAX_STEPS and not over, {}

    def frame(self) -> np.ndarray:
        return self._console.getScreenRGB()

    def close(self) -> None:
        pass

    def _picture(self) -> np.ndarray:
        """Uint8 [32, 48]: the brightest pixel of each cell."""
        field = self._console.getScreenGrayscale()[_TOP : _TOP + HEIGHT * _CELL[0], _LEFT : _LEFT + WIDTH * _CELL[1]]
        return _STRETCH[field.reshape(HEIGHT, _CELL[0], WIDTH, _CELL[1]).max(axis=(1, 3))]

    def _observation(self) -> Observation:
        return {"image": np.zeros_like(self._image) if self._blank else self._image}


def make_task(name: str) -> Task:
    """The task "atari/breakout"; ``make(blank=True)`` hides the screen."""
    random_score, expert_score = reference_scores(name)
    return Task(
        name=name,
        make=BreakoutEnvironment,
        expert=lambda environment, rng: BreakoutExpert(environment),
        metric="return",
        max_steps=MAX_STEPS,
        random_score=random_score,
        expert_score=expert_score,
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
