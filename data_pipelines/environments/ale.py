"""The Arcade Learning Environment (ale-py): "ale/GAME", 104 games as the v5 environments set them up.

Frame skip 4, sticky actions 0.25, the game's minimal action set, at most 108,000 frames. An observation is one frame
of 80 x 64 pixels in colour (20 patches), the size that the Gato paper's token counts imply. The return is the score.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from gato.data_pipelines.environments.base import Action, NoExpert, Observation, Task, import_package
from gato.data_pipelines.environments.suite import Suite
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

HEIGHT, WIDTH = 80, 64
MAX_STEPS = 27_000  # Decisions of 4 frames.
_FRAME_SKIP, _STICKY = 4, 0.25
_TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}  # These have no mode for one.


class GameEnvironment:
    """A whole game an episode.

    Args:
      game: the package's name, e.g. "space_invaders".
      max_steps: decisions until the episode is cut off.
    """

    def __init__(self, game: str, max_steps: int = MAX_STEPS) -> None:
        self._ale_py = import_package("ale_py", "ale")
        self._ale_py.ALEInterface.setLoggerMode(self._ale_py.LoggerMode.Error)
        self._console = self._ale_py.ALEInterface()
        self._console.setInt("frame_skip", _FRAME_SKIP)
        self._console.setFloat("repeat_action_probability", _STICKY)
        self._cartridge = self._ale_py.roms.get_rom_path(game)
        self._console.loadROM(self._cartridge)
        self._actions = self._console.getMinimalActionSet()
        image = LeafSpec("image", (HEIGHT, WIDTH, 3))
        self.spec = EpisodeSpec.of({"image": image}, LeafSpec("discrete", values=len(self._actions)))
        self._steps, self._max_steps = 0, max_steps

    @property
    def ram(self) -> np.ndarray:
        """The console's memory, uint8 [128]."""
        return self._console.getRAM()

    def reset(self, seed: int) -> Observation:
        self._console.setInt("random_seed", seed)
        self._console.loadROM(self._cartridge)  # The seed counts from here on.
        self._steps = 0
        return self._observation()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        reward = self._console.act(self._actions[int(action["action"])])
        self._steps += 1
        over = self._console.game_over()
        return self._observation(), float(reward), over, self._steps >= self._max_steps and not over, {}

    def frame(self) -> np.ndarray:
        return self._console.getScreenRGB()

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        screen = Image.fromarray(self._console.getScreenRGB())
        return {"image": np.asarray(screen.resize((WIDTH, HEIGHT), Image.Resampling.BOX))}


def _names() -> list[str]:
    games = import_package("ale_py", "ale").roms.get_all_rom_ids()
    return sorted(f"ale/{game}" for game in games if game not in _TWO_PLAYERS)


def make_task(name: str) -> Task:
    """The task "ale/GAME"."""
    return Task(
        name=name,
        make=functools.partial(GameEnvironment, name.partition("/")[2]),
        expert=NoExpert(name),
        metric="return",
        max_steps=MAX_STEPS,
    )


SUITE = Suite(
    name="ale",
    description="the Arcade Learning Environment: Atari 2600 games from pixels",
    task_names=_names,
    make_task=make_task,
    packages=("ale_py",),
    extra="ale",
)
