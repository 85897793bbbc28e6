"""What every control environment of ours promises, checked on the real simulators."""

import os
import subprocess
import sys

import numpy as np
import pytest
from random_trace import random_trace, same

from gato.data_pipelines.environments import babyai, metaworld
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.episode import check_episode
from gato.data_pipelines.rollout import random_policy, rollout

TASKS = [
    *(f"metaworld/{name}" for name in metaworld.STARTER),
    "metaworld-full/push-v3",
    *(f"babyai/{level}" for level in babyai.STARTER),
    "babyai-raw/PickupLoc",
    "dm_control/reacher-easy",
    "dm_control/point_mass-easy",
    "dm_control/ball_in_cup-catch",
    "dm_control/pendulum-swingup",
    "dm_control/cartpole-swingup",
]


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_fixes_the_episode_whatever_was_played_before(name):
    task = get_task(name)
    used, fresh = task.make(), task.make()
    first = random_trace(used, 1_000_007, 15)
    assert not same(random_trace(used, 1_000_008, 15), first)
    assert same(random_trace(used, 1_000_007, 15), first)
    assert same(random_trace(fresh, 1_000_007, 15), first)


@pytest.mark.parametrize("name", TASKS)
def test_episodes_match_the_spec_and_frames_are_pictures(name):
    task = get_task(name)
    environment = task.make()
    environment.reset(11_000)
    before = environment.frame()
    episode = rollout(
        environment,
        random_policy(environment.spec, np.random.default_rng(1)),
        environment.reset(11_001),
        steps_after_success=0,
    )
    check_episode(episode, environment.spec, name)
    assert 1 <= len(episode) <= task.max_steps
    after = environment.frame()
    for frame in (before, after):
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 3, "the picture is empty"
    assert not np.array_equal(before, after)


def test_nothing_needs_opengl():
    code = (
        "import sys\n"
        "from gato.data_pipelines.environments.registry import get_task\n"
        "for name in ('dm_control/ball_in_cup-catch', 'metaworld/reach-v3', 'babyai/GoToLocal'):\n"
        "    environment = get_task(name).make(); environment.reset(10_000); environment.frame()\n"
        "import mujoco\n"
        "assert 'OpenGL' not in sys.modules and not hasattr(mujoco, 'GLContext')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_metaworld_shows_its_goal_and_object_and_fits_the_package_vector():
    environment = get_task("metaworld-full/push-v3").make()
    observation = environment.reset(1_000_000)
    joined = np.concatenate(
        [
            observation[leaf]
            for leaf in (
                *("hand", "gripper", "object", "second_object"),
                *("previous_hand", "previous_gripper", "previous_object", "previous_second_object"),
                "goal",
            )
        ]
    )
    np.testing.assert_array_equal(joined, environment.state.astype(np.float32))
    # The package hides the goal (zeros) in an environment that was not switched on as its benchmarks do it.
    for _ in range(2):
        assert np.linalg.norm(observation["goal"]) > 0.5
        observation, *_ = environment.step({"action": np.ones(4, np.float32)})
    lean = get_task("metaworld/push-v3").make()
    shown = lean.reset(1_000_000)
    assert {path: value.size for path, value in shown.items()} == {"goal": 3, "gripper": 1, "hand": 3, "object": 7}


def test_metaworld_limits_an_episode_to_200_steps():
    environment = get_task("metaworld/push-v3").make()
    still = {"action": np.zeros(4, np.float32)}
    episode = rollout(environment, lambda _: still, environment.reset(1_000_000))
    assert len(episode) == 200
    assert episode.truncated
    assert not episode.terminated
    assert episode.metadata["success"] is False


def test_dm_control_keeps_leaf_names_and_ends_by_truncation():
    environment = get_task("dm_control/reacher-easy").make()
    assert list(environment.spec.observations) == ["position", "to_target", "velocity"]
    assert (environment.spec.actions["action"].low, environment.spec.actions["action"].high) == (-1.0, 1.0)
    episode = rollout(environment, lambda _: {"action": np.zeros(2, np.float32)}, environment.reset(3))
    assert len(episode) == 1000
    assert episode.truncated
    assert not episode.terminated
    assert "success" not in episode.metadata


def test_babyai_codes_hold_the_raw_values():
    coded, raw = get_task("babyai/OpenDoor").make(), get_task("babyai-raw/OpenDoor").make()
    for seed in range(1_000_000, 1_000_020):
        first, second = coded.reset(seed), raw.reset(seed)
        cells = np.stack([first["view"] % 11, first["view"] // 11 % 6, first["view"] // 66], axis=-1)
        np.testing.assert_array_equal(cells, second["view"])
        assert first["mission"] == second["mission"]
        assert first["direction"] == second["direction"]


@pytest.mark.parametrize("level", ["GoToSeqS5R2", "MiniBossLevel", "SynthS5R2", "PickupLoc"])
def test_no_mission_of_babyai_is_cut_before_its_own_limit(level):
    """Missions of several parts have more time; whoever plays the task stops at the task's limit."""
    task = get_task(f"babyai/{level}")
    environment = task.make()
    limits = []
    for seed in range(60):
        environment.reset(seed)
        limits.append(environment.max_steps)
    assert max(limits) <= task.max_steps
    assert level == "MiniBossLevel" or max(limits) == task.max_steps, "a limit that no mission has"


def test_the_wrong_mission_changes_the_text_and_nothing_else():
    task = get_task("babyai/PickupLoc")
    right, wrong = task.make(), task.make(**task.controls["wrong mission"])
    missions = []
    for seed in range(1_000_000, 1_000_030):
        first, second = right.reset(seed), wrong.reset(seed)
        assert second["mission"] != first["mission"]
        assert second["mission"] == wrong.reset(seed)["mission"]
        np.testing.assert_array_equal(first["view"], second["view"])
        missions.append(second["mission"])
        _, reward, *_, info = wrong.step({"action": np.int32(6)})
        assert reward == 0
        assert info["success"] is False
    assert len(set(missions)) > 10
    assert not get_task("babyai/GoToRedBall").controls, "its missions differ by an article only"
