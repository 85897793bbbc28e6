"""Gymnasium's own continuous worlds: "classic_control/ID", "box2d/ID", "mujoco/ID" (v5), and "robotics/ID" of
Gymnasium-Robotics (Fetch, Shadow Hand, mazes, kitchen, Adroit).

Identifiers are the packages' own. Robotics tasks count success where the package reports it, all others return.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Literal

from gato.data_pipelines.environments.base import NoExpert, Task, import_package
from gato.data_pipelines.environments.gymnasium_environment import GymnasiumEnvironment
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.gymnasium_heuristics import EXPERTS

# The newest version of each; older ones, JAX and toy text versions are left out.
_CLASSIC = ("Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
_BOX2D = (
    *("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3", "LunarLander-v3", "LunarLanderContinuous-v3"),
)
_MUJOCO = (
    *("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5"),
    *("InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"),
)
# gymnasium_robotics also registers old MuJoCo tasks for MuJoCo-py; these are its own.
_ROBOTICS = ("Adroit", "AntMaze", "Fetch", "FrankaKitchen", "Hand", "PointMaze")


def _registry() -> dict[str, Any]:
    os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing here renders with OpenGL
    return import_package("gymnasium", "gymnasium").registry


def _robotics_names() -> list[str]:
    """The newest version of each task."""
    registry = _registry()
    import_package("gymnasium", "gymnasium").register_envs(import_package("gymnasium_robotics", "robotics"))
    newest: dict[str, int] = {}
    for identifier, entry in registry.items():
        task, _, version = identifier.rpartition("-v")
        if task.startswith(_ROBOTICS) and str(entry.entry_point).startswith("gymnasium_robotics"):
            newest[task] = max(int(version), newest.get(task, 0))
    return sorted(f"robotics/{task}-v{version}" for task, version in newest.items())


def make_task(name: str) -> Task:
    """The task of one of the four suites."""
    suite, _, identifier = name.partition("/")
    metric: Literal["success", "return"] = "return"
    if suite == "robotics":
        _robotics_names()  # registers them
        if not identifier.startswith("FrankaKitchen"):  # its reward counts the finished parts, and it never succeeds
            metric = "success"
    mujoco = suite in ("mujoco", "robotics")
    return Task(
        name=name,
        make=functools.partial(GymnasiumEnvironment, identifier, mujoco=mujoco),
        expert=EXPERTS.get(identifier, NoExpert(name)),
        metric=metric,
        max_steps=int(_registry()[identifier].max_episode_steps),
        noise=(0.0, 0.1, 0.2),
    )


def _suite(name: str, description: str, identifiers: tuple[str, ...], *packages: str) -> Suite:
    names = [f"{name}/{identifier}" for identifier in identifiers]
    return Suite(name, description, lambda: names, make_task, ("gymnasium", *packages), extra="gymnasium")


CLASSIC = _suite("classic_control", "Gymnasium's classic control from the state", _CLASSIC, "pygame")
BOX2D = _suite("box2d", "Gymnasium's Box2D: lander, walker, racing car (from pixels)", _BOX2D, "Box2D", "pygame")
MUJOCO = _suite("mujoco", "Gymnasium's MuJoCo tasks, version 5", _MUJOCO, "mujoco", "imageio")
ROBOTICS = Suite(
    name="robotics",
    description="Gymnasium-Robotics: Fetch, Shadow Hand, mazes, kitchen, Adroit",
    task_names=_robotics_names,
    make_task=make_task,
    packages=("gymnasium_robotics", "mujoco"),
    extra="robotics",
)
