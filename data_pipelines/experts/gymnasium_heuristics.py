"""Hand-written experts for Gymnasium's small worlds: bang-bang control, energy shaping, linear feedback.

They read the observation, so an agent sees all that they see. Lander and walker use the package's own heuristics.
Angles are in radians, 0 is upright; gains were chosen on other seeds than those that `measure_references` plays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Observation, Policy, import_package

Expert = Callable[[Any, np.random.Generator], Policy]


def _discrete(choose: Callable[[np.ndarray], int]) -> Expert:
    return lambda environment, rng: lambda observation: {"action": np.asarray(choose(_vector(observation)), np.int32)}


def _continuous(limit: float, choose: Callable[[np.ndarray], float | np.ndarray]) -> Expert:
    def act(observation: Observation) -> dict[str, np.ndarray]:
        command = np.atleast_1d(choose(_vector(observation)))
        return {"action": np.clip(command, -limit, limit).astype(np.float32)}

    return lambda environment, rng: act


def _vector(observation: Observation) -> np.ndarray:
    return np.asarray(observation["observation"], np.float64)


def _cart_pole(state: np.ndarray) -> int:
    """Push towards where the pole leans; and away from the middle, so that the pole leans back to it."""
    return int(state @ [0.3, 0.7, 10.0, 2.0] > 0)


def _acrobot(state: np.ndarray) -> int:
    """Swing the lower link with the upper one: the torque adds energy."""
    return 2 if state[4] < 0 else 0


def _pendulum(state: np.ndarray) -> float:
    """Pump to the energy of the upright pendulum, then hold it there; mass 1, length 1, gravity 10."""
    cosine, sine, speed = state
    if cosine > 0.9 and abs(speed) < 4:
        return -12.0 * np.arctan2(sine, cosine) - 3.0 * speed
    energy = speed**2 / 6 + 5 * (cosine - 1)  # of the uniform rod, 0 upright and at rest
    return -10.0 * energy * np.sign(speed or 1.0)


def _reacher(state: np.ndarray) -> np.ndarray:
    """Inverse kinematics of the two links (0.1 m, 0.11 m), then gentle feedback: the reward charges for torque."""
    angles, target, speeds = np.arctan2(state[2:4], state[:2]), state[4:6], state[6:8]
    reach = np.clip(np.hypot(*target), 0.011, 0.209)
    elbow = np.arccos((reach**2 - 0.1**2 - 0.11**2) / (2 * 0.1 * 0.11))
    errors = []
    for bend in (elbow, -elbow):
        shoulder = np.arctan2(target[1], target[0]) - np.arctan2(0.11 * np.sin(bend), 0.1 + 0.11 * np.cos(bend))
        turn = (shoulder - angles[0] + np.pi) % (2 * np.pi) - np.pi
        errors.append(np.array([turn, bend - angles[1]]))
    return 0.15 * min(errors, key=lambda error: float(np.abs(error).sum())) - 0.05 * speeds


def _lander(environment: Any, rng: np.random.Generator) -> Policy:
    heuristic = import_package("gymnasium.envs.box2d.lunar_lander", "gymnasium").heuristic
    kind = np.int32 if environment.spec.actions["action"].modality == "discrete" else np.float32
    return lambda observation: {
        "action": np.asarray(heuristic(environment.simulator, observation["observation"]), kind)
    }


def _walker(environment: Any, rng: np.random.Generator) -> Policy:
    walker = import_package("gymnasium.envs.box2d.bipedal_walker", "gymnasium").BipedalWalkerHeuristics()
    return lambda observation: {"action": walker.step_heuristic(observation["observation"]).astype(np.float32)}


# Gymnasium's identifier -> expert.
EXPERTS: Mapping[str, Expert] = {
    "Acrobot-v1": _discrete(_acrobot),
    "BipedalWalker-v3": _walker,
    "CartPole-v1": _discrete(_cart_pole),
    "InvertedPendulum-v5": _continuous(3.0, lambda state: float(state @ [0.5, 9.0, 1.0, 1.5])),
    "LunarLander-v3": _lander,
    "LunarLanderContinuous-v3": _lander,
    "MountainCar-v0": _discrete(lambda state: 2 if state[1] > 0 else 0),
    "MountainCarContinuous-v0": _continuous(1.0, lambda state: 1.0 if state[1] >= 0 else -1.0),
    "Pendulum-v1": _continuous(2.0, _pendulum),
    "Reacher-v5": _continuous(1.0, _reacher),
}
