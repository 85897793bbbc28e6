"""The DeepMind Control Suite with randomised physics, as in the Gato paper: another body in every episode.

``dm_control-random-small/DOMAIN-TASK`` draws multipliers from [0.9, 0.95] or [1.05, 1.1], ``dm_control-random-large``
from [0.6, 0.8] or [1.2, 1.4], either side with probability 1/2; never close to 1, where the task itself lies. One
multiplier for each actuator (gear), joint (stiffness), degree of freedom (damping) and geom (its sizes).

The paper does not say more. Ours: the compiled model is scaled, so masses, inertias and the places of the joints stay;
planes, height fields and meshes keep their shape. Where no initial state without contacts exists for the geoms of a
draw (a humanoid whose legs overlap), the whole body is drawn again.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from gato.data_pipelines.environments import dm_control
from gato.data_pipelines.environments.base import Observation, SuiteError, Task, import_package
from gato.data_pipelines.environments.dm_control import DMControlEnvironment

Ranges = tuple[tuple[float, float], tuple[float, float]]
SMALL_RANGES: Ranges = ((0.9, 0.95), (1.05, 1.1))
LARGE_RANGES: Ranges = ((0.6, 0.8), (1.2, 1.4))
# Fields of the compiled model, and those that follow from a geom's size.
_PLACES = ("actuator_gear", "jnt_stiffness", "dof_damping", "geom_size")
_FOLLOWING = ("geom_rbound", "geom_aabb")
_SCALED_GEOMS = (2, 3, 4, 5, 6)  # mujoco.mjtGeom: sphere, capsule, ellipsoid, cylinder, box
_BODIES, _INITIAL_STATES = 50, 1000  # Attempts at a body, and at an initial state of one.
_STREAM = 0x9E3779B9  # Separates the multipliers' seeds from those of the initial states.


class _NoInitialState(Exception):
    """A task goes on looking for a state without contacts."""


class RandomPhysicsEnvironment(DMControlEnvironment):
    """A task of the suite with another body in every episode.

    Attributes:
      multipliers: of the current episode: field of the model -> array, one number for each of its rows.
    """

    def __init__(
        self, simulator: Any, generator: np.random.RandomState, ranges: Ranges = SMALL_RANGES, **options: Any
    ) -> None:
        super().__init__(simulator, generator, **options)
        self._ranges = ranges
        model = simulator.physics.model
        self._base = {name: getattr(model, name).copy() for name in (*_PLACES, *_FOLLOWING)}
        self._geoms = np.isin(model.geom_type, _SCALED_GEOMS)
        # The bodies' bounding volumes are compiled for the original sizes; without this filter contacts stay exact.
        model.opt.disableflags |= import_package("mujoco", "dm_control").mjtDisableBit.mjDSBL_MIDPHASE.value
        self.multipliers: dict[str, np.ndarray] = {}
        self._states = 0
        self._after_reset = simulator.physics.after_reset
        simulator.physics.after_reset = self._count

    def reset(self, seed: int) -> Observation:
        rng = np.random.default_rng([_STREAM, seed])
        for _ in range(_BODIES):
            self._scale(rng)
            self._states = 0
            try:
                return super().reset(seed)
            except _NoInitialState:
                continue
        raise SuiteError(f"no initial state without contacts for {_BODIES} bodies in a row (seed {seed})")

    def _scale(self, rng: np.random.Generator) -> None:
        """Writes fresh multiples of the original values into the model."""
        model = self.simulator.physics.model
        self.multipliers = {name: self._draw(rng, len(self._base[name])) for name in _PLACES}
        self.multipliers["geom_size"][~self._geoms] = 1.0
        for name in _PLACES:
            getattr(model, name)[:] = _rows(self._base[name], self.multipliers[name])
        sizes = self.multipliers["geom_size"]
        model.geom_rbound[:] = self._base["geom_rbound"] * sizes
        model.geom_aabb[:, 3:] = self._base["geom_aabb"][:, 3:] * sizes[:, None]  # the first three are its centre

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        low, high = (rng.uniform(*part, count) for part in self._ranges)
        return np.where(rng.random(count) < 0.5, low, high)

    def _count(self) -> None:
        self._states += 1
        if self._states > _INITIAL_STATES:
            raise _NoInitialState
        self._after_reset()


def _rows(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return values * factors.reshape(-1, *[1] * (values.ndim - 1))


def make_task(name: str) -> Task:
    """The task "dm_control-random-small/DOMAIN-TASK" or "dm_control-random-large/DOMAIN-TASK"."""
    suite, _, short = name.partition("/")
    ranges = SMALL_RANGES if suite == SMALL.name else LARGE_RANGES
    return dm_control.suite_task(
        name, functools.partial(dm_control.suite_environment, short, RandomPhysicsEnvironment, ranges=ranges)
    )


SMALL = dataclasses.replace(
    dm_control.SUITE,
    name="dm_control-random-small",
    description="DeepMind Control Suite, the physics drawn for each episode: times 0.9-0.95 or 1.05-1.1",
    task_names=functools.partial(dm_control.names_in, "dm_control-random-small"),
    make_task=make_task,
)
LARGE = dataclasses.replace(
    SMALL,
    name="dm_control-random-large",
    description="DeepMind Control Suite, the physics drawn for each episode: times 0.6-0.8 or 1.2-1.4",
    task_names=functools.partial(dm_control.names_in, "dm_control-random-large"),
)
