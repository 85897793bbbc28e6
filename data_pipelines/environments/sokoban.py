"""Sokoban from pixels: 7x7 levels with one or two boxes, drawn as one 16x16 tile (one image patch) a cell.

Levels are our own (`sokoban_levels`); the ring of walls is not drawn, since it is the same in every level. An episode
ends when every box stands on a target, and also, unsolved, as soon as it can no longer be solved: nothing that happens
after that could change its score. The only reward is 1 for the solution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato.data_pipelines.environments.base import EVALUATION_SEED, Action, Observation, Task
from gato.data_pipelines.environments.sokoban_levels import MOVES, SIZE, UNSOLVABLE, Level, generate
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.sokoban import SokobanExpert
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

TILE = 16  # Pixels a side.
_TASKS = {"sokoban/7x7-1box": (1, 50), "sokoban/7x7-2box": (2, 100)}  # Name -> boxes, step limit.
# Tiles in the order of their codes.
_FLOOR, _WALL, _TARGET, _BOX, _BOX_ON_TARGET, _PLAYER, _PLAYER_ON_TARGET = range(7)


class SokobanEnvironment:
    """One level an episode. Observation: the image of the 5x5 cells inside the ring; action: up, down, left, right.

    Attributes:
      level: the level of the current episode.
      state: where its pieces stand now, an index into ``level.puzzle``.
    """

    spec = EpisodeSpec.of(
        {"image": LeafSpec("image", (SIZE * TILE, SIZE * TILE, 3))}, LeafSpec("discrete", values=len(MOVES))
    )

    def __init__(self, boxes: int, max_steps: int) -> None:
        self._boxes, self._max_steps = boxes, max_steps
        self.level: Level
        self.state = 0
        self._steps = 0

    def reset(self, seed: int) -> Observation:
        self.level = generate(self._boxes, np.random.default_rng(seed), held_out=seed >= EVALUATION_SEED)
        self.state, self._steps = self.level.start, 0
        return self._observation()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        puzzle = self.level.puzzle
        self.state = int(puzzle.successors[int(action["action"]), self.state])
        self._steps += 1
        left = int(puzzle.distance[self.state])
        solved, dead = left == 0, left == UNSOLVABLE
        truncated = self._steps >= self._max_steps and not (solved or dead)
        return self._observation(), float(solved), solved or dead, truncated, {"success": solved}

    def frame(self) -> np.ndarray:
        return self._observation()["image"].repeat(2, axis=0).repeat(2, axis=1)

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        puzzle = self.level.puzzle
        codes = np.where(puzzle.walls, _WALL, np.where(puzzle.targets, _TARGET, _FLOOR))
        (row, column), *boxes = puzzle.pieces(self.state)
        codes[row, column] = _PLAYER_ON_TARGET if puzzle.targets[row, column] else _PLAYER
        for row, column in boxes:
            codes[row, column] = _BOX_ON_TARGET if puzzle.targets[row, column] else _BOX
        return {"image": _TILES[codes].swapaxes(1, 2).reshape(SIZE * TILE, SIZE * TILE, 3)}


def make_task(name: str) -> Task:
    """Tasks "sokoban/7x7-1box" and "sokoban/7x7-2box"; see the module's docstring."""
    boxes, max_steps = _TASKS[name]
    return Task(
        name=name,
        make=lambda: SokobanEnvironment(boxes, max_steps),
        expert=lambda environment, rng: SokobanExpert(environment),
        metric="success",
        max_steps=max_steps,
        noise=(0.0, 0.1, 0.2),
    )


def _draw_tiles() -> NDArray[np.uint8]:
    """Uint8 [7, 16, 16, 3]: flat shapes in colours that differ strongly also as greyscale."""
    rows, columns = np.mgrid[:TILE, :TILE]
    from_centre = np.stack([rows, columns]) - (TILE - 1) / 2
    radius = np.hypot(*from_centre)
    diamond = np.abs(from_centre).sum(axis=0)
    square = np.abs(from_centre).max(axis=0)
    tiles = np.empty((7, TILE, TILE, 3), np.uint8)
    tiles[:] = (236, 226, 202)
    tiles[:, (rows == 0) | (columns == 0)] = (222, 211, 186)
    mortar = (rows % 5 == 0) | ((columns + 4 * (rows // 5 % 2)) % 8 == 0)
    tiles[_WALL] = np.where(mortar[..., None], (52, 52, 60), (92, 96, 110))
    for code in (_TARGET, _PLAYER_ON_TARGET):
        tiles[code][diamond <= 7] = (214, 48, 49)
    tiles[_TARGET][diamond <= 3] = (250, 190, 180)
    for code, light, dark in ((_BOX, (196, 134, 66), (120, 72, 28)), (_BOX_ON_TARGET, (96, 190, 96), (24, 104, 40))):
        cross = np.abs(np.abs(from_centre[0]) - np.abs(from_centre[1])) < 1
        tiles[code][square <= 7] = light
        tiles[code][(square <= 7) & (cross | (square > 5))] = dark
    for code in (_PLAYER, _PLAYER_ON_TARGET):
        tiles[code][radius <= 5.5] = (30, 60, 160)
        tiles[code][radius <= 3] = (110, 170, 255)
    return tiles


_TILES = _draw_tiles()

SUITE = Suite(
    name="sokoban",
    description="Sokoban from pixels, our own generator: 7x7 levels with one or two boxes",
    task_names=lambda: list(_TASKS),
    make_task=make_task,
)
