"""DeepMind's manipulation tasks (dm_control): a Jaco arm reaches, lifts, places, stacks; 25 steps a second, for 10.

``dm_manipulation/NAME`` shows the features of arm and objects, ``dm_manipulation-pixels/NAME`` those of the arm and
an image of 84 x 84 through the package's own camera, which needs OpenGL (`offscreen`). Rewards lie in [0, 1] a step.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import NoExpert, Observation, Task, import_package
from gato.data_pipelines.environments.dm_control import SUITE as CONTROL_SUITE
from gato.data_pipelines.environments.dm_control import DMControlEnvironment
from gato.data_pipelines.environments.offscreen import OffscreenRenderer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, unflatten

MAX_STEPS, SIZE = 250, 84
_SECONDS = 10.0
_CAMERA = "front_close"
_KINDS = {"dm_manipulation": "_features", "dm_manipulation-pixels": "_vision"}


class ManipulationEnvironment(DMControlEnvironment):
    """A task from features."""

    def __init__(self, simulator: Any, generator: np.random.RandomState) -> None:
        super().__init__(simulator, generator, MAX_STEPS, camera=_CAMERA)

    def reset(self, seed: int) -> Observation:
        # Where bricks stand in random order, the package shuffles the order of the episode before.
        order = getattr(self.simulator.task, "_initial_order", None)
        if order is not None:
            order.sort()
        return super().reset(seed)


class VisionEnvironment(ManipulationEnvironment):
    """A task whose objects are seen in an image only."""

    def __init__(self, simulator: Any, generator: np.random.RandomState) -> None:
        super().__init__(simulator, generator)
        self._renderer = OffscreenRenderer(SIZE, _CAMERA)
        leaves = {_CAMERA: LeafSpec("image", (SIZE, SIZE, 3)), **self.spec.observations}
        self.spec = EpisodeSpec.of(unflatten(leaves), self.spec.actions)

    def close(self) -> None:
        self._renderer.close()
        super().close()

    def _leaves(self, timestep: Any) -> Observation:
        physics = self.simulator.physics
        return {_CAMERA: self._renderer.draw(physics.model.ptr, physics.data.ptr), **super()._leaves(timestep)}


def _environment(name: str) -> DMControlEnvironment:
    """Of the package's name, e.g. "lift_brick_features"."""
    _manipulation()
    task = import_package("dm_control.manipulation.shared.registry", "dm_control").get_constructor(name)()
    generator = np.random.RandomState(0)
    task.task_observables[_CAMERA].enabled = False  # the package would draw it with the OpenGL of its own choice
    composer = import_package("dm_control.composer", "dm_control")
    simulator = composer.Environment(task, time_limit=_SECONDS, random_state=generator)
    return (VisionEnvironment if name.endswith("_vision") else ManipulationEnvironment)(simulator, generator)


def _names(suite: str) -> list[str]:
    kind = _KINDS[suite]
    return sorted(f"{suite}/{name.removesuffix(kind)}" for name in _manipulation().ALL if name.endswith(kind))


def make_task(name: str) -> Task:
    """The task "dm_manipulation/NAME" or "dm_manipulation-pixels/NAME"."""
    suite, _, short = name.partition("/")
    return Task(
        name=name,
        make=functools.partial(_environment, short + _KINDS[suite]),
        expert=NoExpert(name),
        metric="return",
        max_steps=MAX_STEPS,
    )


def _manipulation() -> Any:
    os.environ.setdefault("MUJOCO_GL", "disabled")  # as in `dm_control`
    return import_package("dm_control.manipulation", "dm_control")


SUITE = dataclasses.replace(
    CONTROL_SUITE,
    name="dm_manipulation",
    description="DeepMind's manipulation tasks of a Jaco arm from features",
    task_names=functools.partial(_names, "dm_manipulation"),
    make_task=make_task,
)
PIXELS = dataclasses.replace(
    SUITE,
    name="dm_manipulation-pixels",
    description="DeepMind's manipulation tasks from the arm's features and an image; needs EGL or OSMesa",
    task_names=functools.partial(_names, "dm_manipulation-pixels"),
)
