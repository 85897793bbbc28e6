"""The experts solve their tasks, noise or not; and they know when to give up."""

import numpy as np
import pytest

from gato.data_pipelines.environments import babyai, metaworld
from gato.data_pipelines.environments.base import ExpertError
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.rollout import demonstration, rollout


@pytest.mark.parametrize(
    "name", [*(f"metaworld/{name}" for name in metaworld.STARTER), *(f"babyai/{level}" for level in babyai.STARTER)]
)
def test_demonstrations_succeed_and_are_cut_after_success(name):
    task = get_task(name)
    environment = task.make()
    noises = set()
    for index in range(3):
        episode = demonstration(task, environment, index, seed=0)
        assert episode.metadata["success"]
        assert len(episode) <= task.max_steps
        noises.add(episode.metadata["noise"])
        if name.startswith("metaworld"):
            assert 11 < len(episode) < 200
    assert noises == set(task.noise)
    assert len(noises) == 3


@pytest.mark.parametrize(
    ("name", "low"),
    [("reacher-easy", 850), ("point_mass-easy", 800), ("pendulum-swingup", 500), ("cartpole-swingup", 650)],
)
def test_analytic_controllers_reach_their_measured_return(name, low):
    task = get_task(f"dm_control/{name}")
    environment = task.make()
    returns = []
    for seed in (1_200_000, 1_200_001):
        observation = environment.reset(seed)
        returns.append(
            rollout(environment, task.expert(environment, np.random.default_rng(0)), observation).rewards.sum()
        )
    assert np.mean(returns) > low


def test_the_planner_catches_the_ball_and_its_generator_fixes_the_plan():
    task = get_task("dm_control/ball_in_cup-catch")
    environments = task.make(), task.make()
    rewards = []
    for environment in environments:
        observation = environment.reset(10_002)
        policy, total = task.expert(environment, np.random.default_rng(5)), 0.0
        for _ in range(150):
            observation, reward, *_ = environment.step(policy(observation))
            total += reward
        rewards.append((total, tuple(observation["position"])))
    assert rewards[0] == rewards[1]
    assert rewards[0][0] > 30


def test_the_bot_gives_up_instead_of_planning_for_ever():
    task = get_task("babyai/UnlockToUnlock")
    environment = task.make()
    failures = []
    for seed in range(10_000, 10_012):
        observation = environment.reset(seed)
        try:
            rollout(environment, task.expert(environment, np.random.default_rng(0)), observation)
        except ExpertError as error:
            failures.append(str(error))
    assert failures
    assert all("500 subgoals" in failure for failure in failures)


def test_a_task_that_the_expert_cannot_solve_is_named():
    task = get_task("babyai/KeyInBox")
    with pytest.raises(
        ExpertError, match="babyai/KeyInBox: the expert failed 20 times in a row at episode 7: the BabyAI bot"
    ):
        demonstration(task, task.make(), 7, seed=0)


def test_a_task_without_expert_says_so():
    task = get_task("dm_control/dog-run")
    with pytest.raises(ExpertError, match="no built-in expert"):
        task.expert(None, np.random.default_rng(0))
