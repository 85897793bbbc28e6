"""Spaces of Gymnasium as leaves, and the experts of its small worlds."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gato.data_pipelines.environments.gymnasium_environment import GymnasiumEnvironment
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.measure_references import measure
from gato.tokenizers.errors import SpecError


class Mixed(gymnasium.Env):
    """Nested observations of every kind, nested actions; remembers what was executed."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "arm": spaces.Dict({"joints": spaces.Box(-1, 1, (2,), np.float64), "mode": spaces.Discrete(3, start=-1)}),
        }
    )
    action_space = spaces.Dict(
        {"grip": spaces.Discrete(2, start=5), "move": spaces.Box(np.array([-1.0, -2.0]), np.array([1.0, 2.0]))}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        self.executed = action
        return self._observation(), 1, False, False, {"is_success": np.True_}

    def _observation(self):
        joints = self.np_random.uniform(-1, 1, 2)
        return {"camera": np.full((8, 8, 3), 7, np.uint8), "arm": {"joints": joints, "mode": 1}}


@pytest.fixture
def mixed():
    gymnasium.register("Mixed-v0", Mixed, max_episode_steps=2)
    yield GymnasiumEnvironment("Mixed-v0", mujoco=True)
    del gymnasium.registry["Mixed-v0"]


def test_spaces_become_leaves_and_actions_become_what_the_package_takes(mixed):
    assert {path: leaf.modality for path, leaf in mixed.spec.observations.items()} == {
        "arm.joints": "continuous",
        "arm.mode": "discrete",
        "camera": "image",
    }
    move = mixed.spec.actions["move"]
    assert (move.low, move.high) == ((-1.0, -2.0), (1.0, 2.0))
    observation = mixed.reset(3)
    assert observation["arm.joints"].dtype == np.float32
    assert (mixed.spec.observations["arm.mode"].values, observation["arm.mode"]) == (3, 2)
    np.testing.assert_array_equal(mixed.reset(3)["arm.joints"], observation["arm.joints"])
    action = {"grip": np.int32(1), "move": np.array([0.5, 9.0], np.float32)}
    _, reward, terminated, truncated, info = mixed.step(action)
    executed = mixed.simulator.unwrapped.executed
    assert executed["grip"] == 6
    np.testing.assert_allclose(executed["move"], [0.5, 2.0])
    assert (reward, terminated, truncated, info) == (1.0, False, False, {"success": True})
    assert mixed.step(action)[3], "the step limit of the registration"


def test_a_space_without_a_leaf_is_named():
    class Odd(Mixed):
        action_space = spaces.Text(5)

    gymnasium.register("Odd-v0", Odd)
    try:
        with pytest.raises(SpecError, match="action: a space Text has no leaf"):
            GymnasiumEnvironment("Odd-v0", mujoco=True)
    finally:
        del gymnasium.registry["Odd-v0"]


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("classic_control/Acrobot-v1", -150),
        ("classic_control/CartPole-v1", 490),
        ("classic_control/MountainCar-v0", -140),
        ("classic_control/MountainCarContinuous-v0", 80),
        ("classic_control/Pendulum-v1", -400),
        ("mujoco/InvertedPendulum-v5", 950),
        ("mujoco/Reacher-v5", -8),
        ("box2d/LunarLander-v3", 150),
        ("box2d/LunarLanderContinuous-v3", 150),
    ],
)
def test_the_experts_of_small_worlds_are_experts(name, at_least):
    record = measure(get_task(name), 3)
    assert record["expert"] >= at_least
    assert record["random"] < record["expert"] - 20
