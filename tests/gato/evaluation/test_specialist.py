"""A specialist learns a task that can be learned from its observation, and only from that."""

from __future__ import annotations

import numpy as np
import pytest

from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.evaluation.features import Features, PatchTable, flat_patches
from gato.evaluation.specialist import SpecialistConfig, train_specialist
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

SMALL = SpecialistConfig(width=64, embedding=4, batch=64, updates=600)


@pytest.fixture
def store(toy_suite, tmp_path):
    task = get_task("toy/match")
    environment = task.make()
    with StoreWriter(tmp_path / "match", "toy/match", toy_suite.SPEC, {"task": "toy/match"}) as writer:
        for index in range(60):
            writer.write(demonstration(task, environment, index, seed=0))
    return Store(tmp_path / "match")


def test_it_copies_discrete_and_continuous_actions(store, toy_suite):
    policy = train_specialist(store, np.arange(len(store)), seed=0, config=SMALL)
    policy.restart([0, 1], [5, 6])
    environment, right, errors = toy_suite.Toy(), [], []
    for seed in range(60):
        observation = environment.reset(1_000_000 + seed)
        action = policy.act([observation, observation])[0]
        right.append(int(action["choice"]) == int(np.argmax(observation["numbers"])))
        errors.append(float(action["push"][0] - 0.5 * observation["numbers"][0]))
        assert abs(action["push"][0]) <= 2.0
    assert np.mean(right) > 0.85
    assert np.sqrt(np.mean(np.square(errors))) < 0.25


def test_the_same_seed_gives_the_same_specialist(store, toy_suite):
    observation = toy_suite.Toy().reset(5)
    config = SpecialistConfig(width=16, embedding=4, batch=16, updates=5)
    twice = []
    for _ in range(2):
        policy = train_specialist(store, [0, 1, 2], seed=4, config=config)
        policy.restart([0], [9])
        twice += policy.act([observation])
    assert twice[0]["choice"] == twice[1]["choice"]
    np.testing.assert_array_equal(twice[0]["push"], twice[1]["push"])


def test_a_wrong_observation_is_named(store, toy_suite):
    config = SpecialistConfig(width=16, embedding=4, batch=16, updates=1)
    policy = train_specialist(store, [0], config=config)
    observation = toy_suite.Toy().reset(5)
    with pytest.raises(SpecError, match=r"'numbers' of environment 0"):
        policy.act([{**observation, "numbers": np.zeros(7)}])


def test_features_are_standardised_and_ignore_unknown_words():
    spec = EpisodeSpec.of({"x": LeafSpec("continuous", (2,)), "say": LeafSpec("text")}, LeafSpec("discrete", values=2))
    x = np.random.default_rng(0).normal(5.0, 3.0, (500, 2))
    x[:, 1] = 7.0  # a number that never changes
    features = Features.fit({"x": x, "say": ["go to the Red ball"] * 250 + ["stop"] * 250}, spec)
    encoded = features.encode({"x": x, "say": ["red, RED purple!"] * 500})
    assert np.abs(encoded["x"].mean(axis=0)).max() < 1e-3
    np.testing.assert_allclose(encoded["x"].std(axis=0), [1, 0, 1, 0], atol=0.02)
    assert encoded["say"].sum() == 500
    far = features.encode({"x": np.full((1, 2), 1e9), "say": [""]})
    assert np.abs(far["x"]).max() <= 5.0


def test_the_patch_table_keeps_each_patch_once_and_gives_it_back():
    images = np.random.default_rng(0).integers(0, 2, (4, 20, 32, 1), np.uint8) * 0
    images[2, :16, :16] = 9
    table = PatchTable()
    numbers = np.concatenate([table.add(images[:2]), table.add(images[2:])])
    assert table.pixels().shape == (2, 768)
    np.testing.assert_array_equal(table.pixels()[numbers], flat_patches(images))
