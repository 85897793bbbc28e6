"""Meta-World (metaworld 3.1.1, MuJoCo): 50 manipulation tasks of one simulated arm, 4 continuous actions.

``metaworld/NAME`` shows the 14 numbers that its tasks need (hand, gripper, first object, goal); short timesteps are
what lets a small model learn within minutes. ``metaworld-full/NAME`` shows the package's whole 39-vector.

Initial states are drawn uniformly from the task's own reset space, one for each seed, as the package's benchmark does
for its 50 goals. Success counts at any step within 200.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Task, import_package
from gato.data_pipelines.environments.drawing import SceneDrawer
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.scripted import scripted_policy
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

MAX_STEPS = 200
STARTER = tuple(
    f"{name}-v3"
    for name in (
        "reach",
        "drawer-close",
        "button-press",
        "window-open",
        "door-close",
        "plate-slide",
        "handle-press",
        "faucet-open",
        "coffee-button",
        "push",
    )
)
_LEAVES = {"goal": slice(36, 39), "gripper": slice(3, 4), "hand": slice(0, 3), "object": slice(4, 11)}
_FULL_LEAVES = {
    **_LEAVES,
    "previous_gripper": slice(21, 22),
    "previous_hand": slice(18, 21),
    "previous_object": slice(22, 29),
    "previous_second_object": slice(29, 36),
    "second_object": slice(11, 18),
}


class MetaWorldEnvironment:
    """One Meta-World task.

    Args:
      name: the package's name, e.g. "reach-v3".
      full: whether the observation holds all 39 numbers.

    Attributes:
      state: the package's 39-vector of the current step, what its scripted policies read.
    """

    def __init__(self, name: str, full: bool = False) -> None:
        self._leaves = _FULL_LEAVES if full else _LEAVES
        observations = {path: LeafSpec("continuous", (part.stop - part.start,)) for path, part in self._leaves.items()}
        self.spec = EpisodeSpec.of(observations, LeafSpec("continuous", (4,), low=-1.0, high=1.0))
        self.simulator = _simulators()[name]()
        # As the package's own benchmarks switch a task on: initial states drawn anew at every reset, the goal shown.
        # The observation space was cached while the goal was hidden, and `step` clips to it: without `del` every goal
        # would read 0.
        self.simulator._freeze_rand_vec = False
        self.simulator.seeded_rand_vec = True
        self.simulator._set_task_called = True
        self.simulator._partially_observable = False
        del self.simulator.sawyer_observation_space
        self.state = np.zeros(39)
        self._steps = 0
        self._drawer: SceneDrawer | None = None

    def reset(self, seed: int) -> Observation:
        self.simulator.seed(seed)
        self.state, _ = self.simulator.reset()
        self._steps = 0
        return self._observation()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        command = np.clip(np.asarray(action["action"], np.float32), -1, 1)
        self.state, reward, terminated, _, info = self.simulator.step(command)
        self._steps += 1
        success = {"success": bool(info["success"])}
        return self._observation(), float(reward), bool(terminated), self._steps >= MAX_STEPS, success

    def frame(self) -> np.ndarray:
        if self._drawer is None:
            self._drawer = SceneDrawer(self.simulator.model, "corner3")
        drawn = self._drawer.draw(self.simulator.data, [(self.state[36:39], 0.02, (40, 170, 70))])
        return drawn[::-1, ::-1].copy()  # the package's cameras hang upside down

    def close(self) -> None:
        self.simulator.close()

    def _observation(self) -> Observation:
        return {path: self.state[part].astype(np.float32) for path, part in self._leaves.items()}


def _names(suite: str) -> list[str]:
    return [f"{suite}/{name}" for name in sorted(_simulators())]


def make_task(name: str) -> Task:
    """The task "metaworld/NAME" or "metaworld-full/NAME"."""
    suite, _, task = name.partition("/")
    return Task(
        name=name,
        make=functools.partial(MetaWorldEnvironment, task, full=suite == "metaworld-full"),
        expert=functools.partial(scripted_policy, task),
        metric="success",
        max_steps=MAX_STEPS,
        noise=(0.0, 0.2, 0.5),
        steps_after_success=10,
    )


def _simulators() -> dict[str, Any]:
    # Nothing here renders with OpenGL; without this, importing MuJoCo's packages looks for a display.
    os.environ.setdefault("MUJOCO_GL", "disabled")
    return import_package("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS


SUITE = Suite(
    name="metaworld",
    description="Meta-World MT50: one arm, 50 manipulation tasks, in 14 numbers",
    task_names=functools.partial(_names, "metaworld"),
    make_task=make_task,
    packages=("metaworld", "mujoco"),
    extra="metaworld",
)
FULL = dataclasses.replace(
    SUITE,
    name="metaworld-full",
    description="Meta-World with the package's whole 39 numbers, as the Gato paper shows it",
    task_names=functools.partial(_names, "metaworld-full"),
)
