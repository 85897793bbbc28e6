"""What every task of every suite promises: a handful of each here, all of them with `make test-slow`."""

from __future__ import annotations

import numpy as np
import pytest
from random_trace import random_trace, same

from gato.data_pipelines.environments import catalogue
from gato.data_pipelines.environments.base import NoExpert
from gato.data_pipelines.environments.offscreen import OffscreenRenderer, RenderingError
from gato.data_pipelines.environments.registry import get_suite, get_task, our_suites

HANDFUL = [
    *("ale/pong", "ale/tetris", "box2d/CarRacing-v3", "box2d/LunarLander-v3"),
    *("classic_control/CartPole-v1", "classic_control/Pendulum-v1"),
    *("dm_control/quadruped-escape", "dm_control/humanoid-stand", "dm_control-pixels/cartpole-balance"),
    "dm_control-random-small/cheetah-run",
    *("dm_control-random-large/humanoid-stand", "dm_control-random-large/reacher-easy"),
    *("dm_manipulation/reach_site", "dm_manipulation-pixels/lift_brick"),
    *("mujoco/Hopper-v5", "mujoco/Reacher-v5", "babyai-raw/BossLevel"),
    *("robotics/FetchReach-v4", "robotics/PointMaze_UMaze-v3"),
    *("robotics/AdroitHandDoor-v1", "robotics/HandReach-v3", "sokoban/7x7-2box"),
]


@pytest.fixture(scope="module", autouse=True)
def opengl() -> bool:
    """Whether this machine can draw what the suites of pixels show."""
    try:
        OffscreenRenderer(16).close()
    except RenderingError:
        return False
    return True


@pytest.mark.parametrize("name", HANDFUL)
def test_a_seed_fixes_the_episode_whatever_was_played_before(name, opengl):
    if "-pixels/" in name and not opengl:
        pytest.skip("this machine has no OpenGL without a display")
    task = get_task(name)
    used, fresh = task.make(), task.make()
    first = random_trace(used, 1_000_007, 6)
    assert first[0].dtype == np.uint8
    assert first[0].shape[2] == 3
    assert len(np.unique(first[0].reshape(-1, 3), axis=0)) > 2, "the picture is empty"
    assert not same(random_trace(used, 1_000_008, 6), first)
    assert same(random_trace(used, 1_000_007, 6), first)
    assert same(random_trace(fresh, 1_000_007, 6), first)
    for leaf in used.spec.actions.values():
        assert leaf.modality == "discrete" or leaf.bounds("action")
    used.close()
    fresh.close()


@pytest.mark.parametrize("name", ["classic_control/Acrobot-v1", "metaworld/push-v3", "babyai/OpenDoor", "ale/pong"])
def test_the_catalogue_says_what_the_simulator_says(name):
    suite = name.partition("/")[0]
    assert catalogue.describe(get_task(name)) == catalogue.load_catalogue()[suite][name]


def test_a_task_without_an_expert_says_so():
    task = get_task("ale/pong")
    assert isinstance(task.expert, NoExpert)
    with pytest.raises(Exception, match="'ale/pong' has no built-in expert; import demonstrations"):
        task.expert(task.make(), np.random.default_rng(0))


@pytest.mark.slow
def test_every_level_of_babyai_can_show_a_wrong_mission_or_has_only_one():
    for name in get_suite("babyai").task_names():
        task = get_task(name)
        for options in task.controls.values():
            environment = task.make(**options)
            for seed in range(1_000_000, 1_000_003):
                environment.reset(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", our_suites())
def test_every_task_is_built_reset_and_stepped_and_is_in_the_catalogue(suite, opengl):
    if suite.endswith("-pixels") and not opengl:
        pytest.skip("this machine has no OpenGL without a display")
    names = sorted(get_suite(suite).task_names())
    assert names == catalogue.task_names(suite)
    for name in names:
        task = get_task(name)
        assert catalogue.describe(task) == catalogue.load_catalogue()[suite][name]
        environment = task.make()
        first = random_trace(environment, 1_000_007, 1)
        assert same(random_trace(environment, 1_000_007, 1), first), f"{name}: a seed does not fix the episode"
        environment.close()
