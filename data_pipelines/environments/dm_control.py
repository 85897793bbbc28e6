"""DeepMind Control Suite (dm_control 1.0.28, MuJoCo 3.3): 51 continuous control tasks, "dm_control/DOMAIN-TASK".

Observations keep the task's own leaf names; an episode lasts 1,000 steps and its return lies in [0, 1000].
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Task, import_package
from gato.data_pipelines.environments.drawing import SceneDrawer
from gato.data_pipelines.environments.references import reference_scores
from gato.data_pipelines.experts import analytic
from gato.data_pipelines.experts.planning import ball_in_cup_policy
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

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
    """One task of the suite. `simulator` is dm_control's own environment, which experts read."""

    def __init__(self, domain: str, task: str) -> None:
        self.simulator = _suite().load(domain, task)
        observations = {
            path: LeafSpec("continuous", leaf.shape) for path, leaf in self.simulator.observation_spec().items()
        }
        bounds = self.simulator.action_spec()
        action = LeafSpec("continuous", bounds.shape, low=_bound(bounds, "minimum"), high=_bound(bounds, "maximum"))
        self.spec = EpisodeSpec.of(observations, action)
        self._low, self._high = bounds.minimum, bounds.maximum
        self._steps, self._zoom = 0, _ZOOM.get(domain, 1.0)
        self._drawer: SceneDrawer | None = None

    def reset(self, seed: int) -> Observation:
        self.simulator.task.random.seed(seed)
        self._steps, self._drawer = 0, None  # an episode may edit the model (the reacher's target)
        return self._leaves(self.simulator.reset())

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        timestep = self.simulator.step(np.clip(action["action"], self._low, self._high))
        self._steps += 1
        # dm_control ends an episode at its time limit with discount 1, and where the task is over with discount 0.
        terminated = bool(timestep.last() and timestep.discount == 0)
        truncated = not terminated and bool(timestep.last() or self._steps >= MAX_STEPS)
        return self._leaves(timestep), float(timestep.reward), terminated, truncated, {}

    def frame(self) -> np.ndarray:
        if self._drawer is None:
            self._drawer = SceneDrawer(self.simulator.physics.model, zoom=self._zoom)
        return self._drawer.draw(self.simulator.physics.data)

    def close(self) -> None:
        self.simulator.close()

    def _leaves(self, timestep: Any) -> Observation:
        return {path: np.asarray(timestep.observation[path], np.float32) for path in self.spec.observations}


def task_names() -> list[str]:
    return sorted(f"dm_control/{domain}-{task}" for domain, task in _suite().ALL_TASKS)


def make_task(name: str) -> Task:
    short = name.partition("/")[2]
    domain, _, task = short.partition("-")
    random_score, expert_score = reference_scores(name)
    return Task(
        name=name,
        make=functools.partial(DMControlEnvironment, domain, task),
        expert=_EXPERTS.get(short, functools.partial(analytic.no_policy, name)),
        metric="return",
        max_steps=MAX_STEPS,
        random_score=random_score,
        expert_score=expert_score,
        noise=(0.0, 0.1, 0.3),
    )


def _bound(bounds: Any, end: str) -> float | tuple[float, ...]:
    """One number where all elements share it, else one for each."""
    values = np.broadcast_to(getattr(bounds, end), bounds.shape).ravel()
    return float(values[0]) if (values == values[0]).all() else tuple(float(value) for value in values)


def _suite() -> Any:
    # Nothing here renders with OpenGL; without this, importing dm_control looks for a display.
    os.environ.setdefault("MUJOCO_GL", "disabled")
    return import_package("dm_control.suite", "dm_control")
