"""Closed-form controllers for DM Control tasks: deterministic, about 0.1 CPU seconds per 1,000 steps, easy to imitate.

Each function is a `Task.expert`: it takes a `DMControlEnvironment` after its reset and returns the episode's policy.
Angles are in radians, 0 is upright; the gains were chosen on one seed and scored on others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Policy, import_package

_GRAVITY = 9.81


def reacher_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """Inverse kinematics of the two links (both 0.12 m) and PD on the joints, to the nearer elbow solution."""
    del rng
    length, reach = 0.12, (0.02, 0.2395)
    physics = environment.simulator.physics
    target = physics.named.model.geom_pos["target", :2].copy()
    distance = np.clip(np.hypot(*target), *reach)
    bend = np.arccos(np.clip((distance**2 - 2 * length**2) / (2 * length**2), -1, 1))
    solutions = []
    for elbow in (bend, -bend):
        offset = np.arctan2(length * np.sin(elbow), length + length * np.cos(elbow))
        solutions.append((np.arctan2(target[1], target[0]) - offset, elbow))

    def command() -> np.ndarray:
        (shoulder, elbow), velocity = physics.data.qpos, physics.data.qvel
        errors = [np.array([_wrap(first - shoulder), second - elbow]) for first, second in solutions]
        return min(errors, key=lambda error: np.abs(error).sum()) - np.array([0.35, 0.3]) * velocity

    return _policy(command)


def point_mass_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """PD to the origin."""
    del rng
    data = environment.simulator.physics.data
    return _policy(lambda: -12.0 * data.qpos - 4.5 * data.qvel)


def pendulum_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """Energy pumping (unit mass at 0.5 m), PD near the top."""
    del rng
    data = environment.simulator.physics.data
    upright = 0.5 * _GRAVITY

    def command() -> np.ndarray:
        angle, speed = _wrap(data.qpos[0]), data.qvel[0]
        if abs(angle) < 0.35 and abs(speed) < 3:
            return np.array([-12 * angle - 2.5 * speed])
        energy = 0.5 * 0.25 * speed**2 + upright * np.cos(angle)
        return np.array([8 * (1.01 * upright - energy) * (np.sign(speed) if abs(speed) > 1e-3 else 1.0)])

    return _policy(command)


def cartpole_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """Energy pumping (rod of 1 m) that keeps the cart near the middle, LQR near the top."""
    del rng
    physics = environment.simulator.physics
    gain = _cartpole_gain(physics.model.ptr)

    def command() -> np.ndarray:
        position, angle = physics.data.qpos[0], _wrap(physics.data.qpos[1])
        velocity, speed = physics.data.qvel
        if abs(angle) < 0.45 and abs(speed) < 4:
            return -gain @ np.array([position, angle, velocity, speed])
        energy = 0.5 * speed**2 / 3 + _GRAVITY * 0.5 * (np.cos(angle) - 1)  # per unit mass; 0 at rest upright
        return np.array([1.2 * energy * speed * np.cos(angle) - 0.35 * position - 0.25 * velocity])

    return _policy(command)


def _policy(command: Callable[[], np.ndarray]) -> Policy:
    def act(observation: Observation) -> Action:
        del observation
        return {"action": np.clip(command(), -1, 1).astype(np.float32)}

    return act


def _wrap(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _cartpole_gain(model: Any) -> np.ndarray:
    """LQR gain [1, 4] at the upright state; the dynamics are linearised by central differences of the simulator."""
    mujoco = import_package("mujoco", "dm_control")
    linalg = import_package("scipy.linalg", "dm_control")
    data = mujoco.MjData(model)

    def advance(state: np.ndarray, force: float) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = state[:2], state[2:], force
        mujoco.mj_step(model, data)
        return np.concatenate([data.qpos, data.qvel])

    small, weak = 1e-5, 1e-4
    columns = [(advance(small * axis, 0.0) - advance(-small * axis, 0.0)) / (2 * small) for axis in np.eye(4)]
    transition = np.stack(columns, axis=1)
    influence = ((advance(np.zeros(4), weak) - advance(np.zeros(4), -weak)) / (2 * weak))[:, None]
    cost, effort = np.diag([1.0, 10.0, 0.1, 0.1]), np.array([[0.5]])
    value = linalg.solve_discrete_are(transition, influence, cost, effort)
    return np.linalg.solve(effort + influence.T @ value @ influence, influence.T @ value @ transition)
