"""Breakout: what the observation shows, seeds, the script against chance, the blank control."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ale_py")

from gato.data_pipelines.environments.atari import MAX_STEPS
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.episode import check_episode
from gato.data_pipelines.rollout import demonstration, random_policy, rollout

NOOP, FIRE, RIGHT, LEFT = (np.array(action) for action in range(4))


@pytest.fixture(scope="module")
def task():
    return get_task("atari/breakout")


@pytest.fixture(scope="module")
def environment(task):
    return task.make()


def play(environment, seed, actions):
    images = [environment.reset(seed)["image"]]
    images += [environment.step({"action": action})[0]["image"] for action in actions]
    return np.stack(images)


def test_channels_are_the_last_three_pictures(environment):
    images = play(environment, 3, [FIRE, *[RIGHT] * 8])
    assert images.shape == (10, 32, 48, 3)
    assert images.dtype == np.uint8
    assert (images[0] == images[0][:, :, :1]).all()
    np.testing.assert_array_equal(images[1:, :, :, 1], images[:-1, :, :, 0])
    np.testing.assert_array_equal(images[2:, :, :, 2], images[:-2, :, :, 0])


def test_the_ball_is_visible_at_every_step(environment):
    """Between the bricks and the paddle there is nothing but the ball: it must show, clearly, whenever it is there."""
    play(environment, 5, [FIRE])
    seen = 0
    for _ in range(12):
        image = environment.step({"action": NOOP})[0]["image"][:, :, 0]
        height = int(environment.ram[101])
        between = image[13:28]
        if 105 < height < 170:
            seen += 1
            assert between.max() > 150
            assert 1 <= (between > 100).sum() <= 4
    assert seen >= 5


def test_the_seed_decides_the_game_and_its_sticky_actions(environment):
    actions = [FIRE, *[LEFT, NOOP, RIGHT, RIGHT] * 10]
    first, again, other = (play(environment, seed, actions) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_script_beats_chance(task, environment):
    observation = environment.reset(2_000_000)
    script = rollout(environment, task.expert(environment, np.random.default_rng(0)), observation)
    check_episode(script, environment.spec, task.name)
    observation = environment.reset(2_000_000)
    chance = rollout(environment, random_policy(environment.spec, np.random.default_rng(0)), observation)
    assert chance.terminated
    assert script.rewards.sum() > chance.rewards.sum() + 8
    assert set(np.unique(script.actions["action"])) == {int(NOOP), int(RIGHT), int(LEFT)}
    assert len(script) <= MAX_STEPS
    assert task.expert_score > 20 > 5 > task.random_score


def test_noise_keeps_the_labels_clean(task, environment):
    episode = demonstration(task, environment, 2, seed=0)
    assert episode.metadata["noise"] == 0.3
    # The expert never fires; a label taken from the noisy actions would fire at one step in forty.
    assert not np.any(episode.actions["action"] == FIRE)


def test_balls_are_served_whatever_is_done(environment):
    play(environment, 4, [NOOP] * 12)
    assert environment.ram[101] > 0
    while environment._console.lives() == 5:
        environment.step({"action": NOOP})
    for _ in range(12):
        environment.step({"action": LEFT})
    assert environment.ram[101] > 0


def test_the_blank_control_shows_nothing_and_plays_on(task):
    blank = task.make(**task.controls["blank"])
    images = play(blank, 3, [FIRE, *[RIGHT] * 5])
    assert images.max() == 0
    assert blank.frame().shape == (210, 160, 3)
    assert blank.frame().max() > 0
