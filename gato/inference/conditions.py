"""What a recipe conditions each row on: its target, and the values that follow from the rewards so far."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from gato.recipes.recipe import Conditioning


class Conditions:
    """The conditionings of B rows.

    Attributes:
      values: for each row the derived leaves of its current timestep.
    """

    def __init__(self, conditionings: Sequence[Conditioning]) -> None:
        self._conditionings = list(conditionings)
        self._targets: list[float | None] = [None] * len(self._conditionings)
        self.values: list[dict[str, float]] = [{} for _ in self._conditionings]

    def begin(self, row: int, target: float | None, conditioning: Conditioning | None = None) -> None:
        """A new episode with a new target, and with another source's conditioning if one is given."""
        if conditioning is not None:
            self._conditionings[row] = conditioning
        self._targets[row] = target
        self.restart(row)

    def restart(self, row: int) -> None:
        """A new episode with the same target."""
        self.values[row] = self._conditionings[row].start(self._targets[row])

    def after(self, rows: Sequence[int], rewards: Sequence[float]) -> Conditions:
        """What they are after one more reward in each of some rows; this object does not change."""
        later = Conditions(self._conditionings)
        later._targets, later.values = self._targets, list(self.values)
        for row, reward in zip(rows, rewards, strict=True):
            later._conditionings[row] = copy.deepcopy(self._conditionings[row])
            later.values[row] = later._conditionings[row].update(float(reward))
        return later

    def leaf(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of one derived leaf, [n]."""
        return np.array([self.values[row][name] for row in rows])

    def keep(self, rows: Sequence[int]) -> None:
        """Row ``rows[i]`` becomes row i; the others go."""
        self._conditionings = [self._conditionings[row] for row in rows]
        self._targets = [self._targets[row] for row in rows]
        self.values = [self.values[row] for row in rows]
