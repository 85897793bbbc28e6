"""Sampling-based model-predictive control (MPPI over spline knots) with MuJoCo's own rollouts, for DM Control.

Every few steps the planner draws action sequences around its last plan, simulates them, and averages them with weights
that grow with the return (Williams et al. 2017, "Information theoretic MPC"). Only the simulated copy is advanced.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Policy, import_package

# The suite's model reports neither position; the planner's own copy of it does, as two more sensors at the end.
_BALL_IN_CUP_SENSORS = (
    '<sensor><framepos name="target_position" objtype="site" objname="target"/>'
    '<framepos name="ball_position" objtype="xbody" objname="ball"/></sensor>'
)


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Chosen for ball in cup on one seed, scored on others.

    Attributes:
      horizon: length of a plan, in control steps.
      knots: a plan is linear between this many points.
      samples: sequences simulated for each plan.
      deviation: standard deviation of a knot, in units of the action.
      every: control steps between two plans.
      temperature: of the weights, in standard deviations of the returns.
    """

    horizon: int = 40
    knots: int = 8
    samples: int = 24
    deviation: float = 0.6
    every: int = 4
    temperature: float = 0.1


class BallInCupPlanner:
    """Plans for one episode of ball-in-cup catch; actions lie in [-1, 1]."""

    def __init__(self, simulator: Any, rng: np.random.Generator, config: PlannerConfig) -> None:
        self._mujoco = import_package("mujoco", "dm_control")
        rollout = import_package("mujoco.rollout", "dm_control")
        domain = import_package("dm_control.suite.ball_in_cup", "dm_control")
        xml, assets = domain.get_model_and_assets()
        text = (xml.decode() if isinstance(xml, bytes) else xml).replace(
            "</mujoco>", _BALL_IN_CUP_SENSORS + "</mujoco>"
        )
        self._model = self._mujoco.MjModel.from_xml_string(text, dict(assets))
        self._rollout = rollout.Rollout(nthread=0)
        self._scratch = [self._mujoco.MjData(self._model)]
        self._physics, self._rng, self._config = simulator.physics, rng, config
        self._substeps = round(simulator.control_timestep() / self._model.opt.timestep)
        self._state = self._mujoco.mjtState.mjSTATE_FULLPHYSICS.value
        self._state_size = self._mujoco.mj_stateSize(self._model, self._state)
        self._steps = np.arange(config.horizon)
        self._at = np.linspace(0, config.horizon - 1, config.knots)
        # weights[h, k]: share of knot k in the action of step h.
        self._weights = np.stack([np.interp(self._steps, self._at, row) for row in np.eye(config.knots)], axis=1)
        self._knots = np.zeros((config.knots, self._model.nu))
        self._age = config.every  # steps executed of the current plan; so the first action asks for one
        self._planned = False

    def act(self, observation: Observation) -> Action:
        """The next action of the plan; plans anew every few steps. Reads the simulator's state, not the observation."""
        del observation
        if self._age >= self._config.every:
            self._plan()
        action = self._weights[self._age] @ self._knots
        self._age += 1
        return {"action": np.clip(action, -1, 1).astype(np.float32)}

    def _plan(self) -> None:
        config, actions = self._config, self._weights @ self._knots
        if self._planned:  # warm start: drop the steps that were executed, hold the last action at the end
            actions = np.concatenate([actions[self._age :], np.repeat(actions[-1:], self._age, axis=0)])
            self._knots = np.stack([np.interp(self._at, self._steps, column) for column in actions.T], axis=1)
        noise = config.deviation * self._rng.standard_normal((config.samples, *self._knots.shape))
        noise[: config.samples // 3] *= 0.4  # some near the old plan, the first one the old plan itself
        noise[0] = 0
        candidates = np.clip(self._knots + noise, -1, 1)
        candidates[1] = 0
        returns = self._returns(np.einsum("hk,nku->nhu", self._weights, candidates))
        weights = np.exp((returns - returns.max()) / max(config.temperature * returns.std(), 1e-6))
        self._knots = np.einsum("n,nku->ku", weights / weights.sum(), candidates)
        self._age, self._planned = 0, True

    def _returns(self, actions: np.ndarray) -> np.ndarray:
        """Mean shaped reward [n] of action sequences [n, horizon, 2] from the simulator's current state."""
        start = np.zeros(self._state_size)
        self._mujoco.mj_getState(self._physics.model.ptr, self._physics.data.ptr, start, self._state)
        control = np.repeat(actions, self._substeps, axis=1)
        _, sensors = self._rollout.rollout(
            self._model, self._scratch, np.repeat(start[None], len(control), axis=0), control
        )
        target, ball = np.split(sensors[:, self._substeps - 1 :: self._substeps, -6:], 2, axis=-1)
        across, up = (ball - target)[..., 0], (ball - target)[..., 2]
        inside = (np.abs(across) < 0.025) & (np.abs(up) < 0.025)
        reward = inside - np.hypot(across, up) + 0.3 * np.minimum(up + 0.05, 0)
        return np.nan_to_num(reward.mean(axis=1), nan=-1e3)


def ball_in_cup_policy(environment: Any, rng: np.random.Generator) -> Policy:
    """`Task.expert` of ball-in-cup catch."""
    return BallInCupPlanner(environment.simulator, rng, PlannerConfig()).act
