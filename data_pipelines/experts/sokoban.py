"""The Sokoban expert: the first move, in the order of the actions, that lies on a shortest solution.

The answer is a function of the position alone, with ties always broken in the same way, so that it can be learned from
the image; and there is one for every position from which the level can still be solved, wherever noise has led.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gato.data_pipelines.environments.base import Action, ExpertError, Observation
from gato.data_pipelines.environments.sokoban_levels import UNSOLVABLE, Level


class _SokobanState(Protocol):
    level: Level
    state: int


class SokobanExpert:
    """The policy of one environment; reads its state, not the image."""

    def __init__(self, environment: _SokobanState) -> None:
        self._environment = environment

    def __call__(self, observation: Observation) -> Action:
        """Raises `ExpertError` in a position that cannot be solved any more."""
        puzzle, state = self._environment.level.puzzle, self._environment.state
        if puzzle.distance[state] == UNSOLVABLE:
            raise ExpertError("this Sokoban position cannot be solved any more; the episode should have ended")
        return {"action": np.asarray(puzzle.distance[puzzle.successors[:, state]].argmin())}
