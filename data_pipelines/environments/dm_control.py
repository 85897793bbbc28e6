"""DeepMind Control Suite (dm_control 1.0.28, MuJoCo 3.3): 51 continuous control tasks, "dm_control/DOMAIN-TASK".

Observations keep the task's own leaf names; an episode lasts 1,000 steps and its return lies in [0, 1000]. Pixels are
in `dm_control_pixels`, randomised physics in `dm_control_random`, the manipulation tasks in `dm_manipulation`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, NoExpert, Observation, Task, bound, import_package
from gato.data_pipelines.environments.drawing import SceneDrawer
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts import analytic
from gato.data_pipelines.experts.planning import ball_in_cup_policy
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, unflatten

MAX_STEPS = 1000
# These scenes fill a small part of what their camera sees.
_ZOOM = {"pendulum": 1.3, "point_mass": 1.1, "reacher": 1.5}
_EXPERTS = {
    "ball_in_cup-catch": ball_in_cup_policy,
    "cartpole-balance": analytic.cartpole_policy,
    "cartpole-swingup": analytic.cartpole_policy,
    "pendulum-swingup": analytic.pendulum_policy,
    "point_mass-easy": analytic.point_mass_policy,
    "reacher-easy": analytic.reacher_policy,
    "reacher-hard": analytic.reacher_policy,
}


class DMControlEnvironment:
    """One environment of dm_control.

    Args:
      simulator: the package's own environment, which experts read.
      generator: of all that is random in it.
      max_steps: limit of an episode.
      zoom, camera: of the pictures that `frame` draws.
    """

    def __init__(
        self,
        simulator: Any,
        generator: np.random.RandomState,
        max_steps: int = MAX_STEPS,
        zoom: float = 1.0,
        camera: int | str = 0,
    ) -> None:
        self.simulator = simulator
        # "arm/joints" is a leaf of a leaf: "arm.joints".
        arrays = simulator.observation_spec()
        self._names = {name.replace("/", "."): name for name in arrays}
        leaves = {path: LeafSpec("continuous", arrays[name].shape) for path, name in self._names.items()}
        bounds = simulator.action_spec()
        low, high = (bound(np.broadcast_to(end, bounds.shape)) for end in (bounds.minimum, bounds.maximum))
        action = LeafSpec("continuous", bounds.shape, low=low, high=high)
        self.spec = EpisodeSpec.of(unflatten(leaves), action)
        self._low, self._high = bounds.minimum, bounds.maximum
        self._generator, self._max_steps, self._steps = generator, max_steps, 0
        self._zoom, self._camera = zoom, camera
        self._drawer: SceneDrawer | None = None

    def reset(self, seed: int) -> Observation:
        self._generator.seed(seed)
        self._steps, self._drawer = 0, None  # an episode may edit the model (the reacher's target)
        return self._leaves(self.simulator.reset())

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        timestep = self.simulator.step(np.clip(action["action"], self._low, self._high))
        self._steps += 1
        # dm_control ends an episode at its time limit with discount 1, and where the task is over with discount 0.
        terminated = bool(timestep.last() and timestep.discount == 0)
        truncated = not terminated and bool(timestep.last() or self._steps >= self._max_steps)
        return self._leaves(timestep), float(timestep.reward), terminated, truncated, {}

    def frame(self) -> np.ndarray:
        if self._drawer is None:
            self._drawer = SceneDrawer(self.simulator.physics.model, self._camera, zoom=self._zoom)
        return self._drawer.draw(self.simulator.physics.data)

    def close(self) -> None:
        self.simulator.close()

    def _leaves(self, timestep: Any) -> Observation:
        return {path: np.asarray(timestep.observation[name], np.float32) for path, name in self._names.items()}


def suite_environment(
    short: str, build: Callable[..., DMControlEnvironment] = DMControlEnvironment, **options: Any
) -> DMControlEnvironment:
    """The environment ``build`` of the suite's task "DOMAIN-TASK"; ``options`` go to ``build``."""
    domain, _, task = short.partition("-")
    simulator = _suite().load(domain, task)
    # The quadruped's terrain would be sent to an OpenGL context that the package makes for it.
    simulator.physics._make_rendering_contexts = lambda: None
    return build(simulator, simulator.task.random, zoom=_ZOOM.get(domain, 1.0), **options)


def names_in(suite: str) -> list[str]:
    """Full names of the 51 tasks in ``suite``."""
    return sorted(f"{suite}/{domain}-{task}" for domain, task in _suite().ALL_TASKS)


def suite_task(name: str, make: Callable[[], DMControlEnvironment]) -> Task:
    """The task "suite/DOMAIN-TASK" in the environment that ``make`` builds, with what its expert is."""
    return Task(
        name=name,
        make=make,
        expert=_EXPERTS.get(name.partition("/")[2], NoExpert(name)),
        metric="return",
        max_steps=MAX_STEPS,
        noise=(0.0, 0.1, 0.3),
    )


def make_task(name: str) -> Task:
    """The task "dm_control/DOMAIN-TASK"."""
    return suite_task(name, functools.partial(suite_environment, name.partition("/")[2]))


def _suite() -> Any:
    # `offscreen` draws what has to be drawn with OpenGL; without this, importing dm_control looks for a display.
    os.environ.setdefault("MUJOCO_GL", "disabled")
    return import_package("dm_control.suite", "dm_control")


SUITE = Suite(
    name="dm_control",
    description="DeepMind Control Suite from the simulator's state",
    task_names=functools.partial(names_in, "dm_control"),
    make_task=make_task,
    packages=("dm_control", "mujoco"),
    extra="dm_control",
)
