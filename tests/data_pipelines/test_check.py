"""What `gato data check` finds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gato.data_pipelines import check, store_writer
from gato.data_pipelines.check import check_store
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.store_writer import StoreWriter

SPEC = EpisodeSpec.of(
    {"joints": LeafSpec("continuous", (3,)), "mode": LeafSpec("discrete", values=5), "order": LeafSpec("text")},
    {"move": LeafSpec("continuous", (2,), low=-1.0, high=1.0)},
)


def episode(rng: np.random.Generator, steps: int) -> Episode:
    joints = rng.normal(size=(steps, 3)).astype(np.float32)
    joints[:, 1] = 0.5
    joints[0, 2] = 300.0
    observations = {"joints": joints, "mode": rng.integers(3, size=steps), "order": ["go"] * steps}
    actions = {"move": rng.uniform(-1, 1, (steps, 2)).astype(np.float32)}
    return Episode(observations, actions, np.ones(steps, np.float32))


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", "lab/s", SPEC, {"task": "t"}) as writer:
        for k in range(10):
            made = episode(rng, 10 + k)
            if k == 7:
                made.actions["move"][4, 1] = 1.5  # the writer checks shapes and numbers, an import also ranges
            writer.write(made)
    return tmp_path / "s"


def test_statistics_of_every_leaf(store):
    report = check_store(store, progress=False)
    assert (report.episodes, report.timesteps, report.checked) == (10, 145, 10)
    assert report.lengths == [10, 12.25, 14.5, 16.75, 19]
    assert report.returns[0] == 10
    joints, mode, order, move = report.leaves
    assert [leaf.name for leaf in report.leaves] == [
        "observations.joints",
        "observations.mode",
        "observations.order",
        "actions.move",
    ]
    assert (joints.constant, joints.dimensions) == (1, 3)
    assert joints.saturated == pytest.approx(10 / (145 * 3))
    assert joints.high == 300
    assert mode.distinct == 3
    assert order.distinct == 1
    assert move.outside == pytest.approx(1 / 290)
    assert report.violated == 1
    place = f"{store}/data-00000.array_record: episode 7"
    assert report.violations == [(7, f"{place}: actions.move: step 4: 1.5 outside -1.0..1.0")]
    json.dumps(report.to_json())


def test_a_sample_is_the_same_every_time(store):
    first, second = (check_store(store, episodes=4, progress=False) for _ in range(2))
    assert first.checked == 4
    assert first == second


def test_damage_is_a_violation_with_its_place(store):
    shard = store / "data-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    report = check_store(store, progress=False)
    assert any("data-00000.array_record" in message for _, message in report.violations)
    assert all(message.startswith(f"episode {number}: ") for number, message in report.violations)


def test_what_the_writer_would_have_refused_is_found(tmp_path, monkeypatch):
    """NaN is counted and named, and the statistics of the rest are unharmed; every leaf out of range is named."""
    monkeypatch.setattr(store_writer, "check_episode", lambda *_: None)
    rng = np.random.default_rng(0)
    made = [episode(rng, 10) for _ in range(3)]
    made[1].observations["joints"][6, 2] = np.nan
    made[2].actions["move"][1, 0] = -7
    with StoreWriter(tmp_path / "s", "lab/s", SPEC, {}) as writer:
        for one in made:
            writer.write(one)
    report = check_store(tmp_path / "s", progress=False)
    joints, *_, move = report.leaves
    assert joints.not_finite == pytest.approx(1 / 90)
    values = np.concatenate([one.observations["joints"] for one in made])
    assert (joints.low, joints.high) == (pytest.approx(values[np.isfinite(values).all(axis=1)].min()), 300)
    assert move.low == -7
    place = f"{tmp_path}/s/data-00000.array_record: episode"
    assert report.violations == [
        (1, f"{place} 1: observations.joints: step 6: NaN or infinity"),
        (2, f"{place} 2: actions.move: step 1: -7 outside -1.0..1.0"),
    ]


def test_everything_that_is_wrong_with_every_episode_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "check_episode", lambda *_: None)
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", "lab/s", SPEC, {}) as writer:
        for _ in range(check.LISTED + 5):
            made = episode(rng, 10)
            made.rewards[3] = np.nan
            made.observations["joints"][6, 2] = np.inf
            made.observations["mode"][2] = 7
            made.actions["move"][1, 0] = -7
            writer.write(made)
    report = check_store(tmp_path / "s", progress=False)
    wrong = [
        "rewards: NaN or infinity at step 3",
        "observations.joints: step 6: NaN or infinity",
        "observations.mode: step 2: value 7 outside 0..4",
        "actions.move: step 1: -7 outside -1.0..1.0",
    ]
    place = f"{tmp_path}/s/data-00000.array_record: episode"
    assert report.violations == [(k, f"{place} {k}: {'; '.join(wrong)}") for k in range(check.LISTED + 5)]
    written = json.loads(json.dumps(report.to_json()))
    assert written["violated"] == len(written["violations"]) == check.LISTED + 5


def test_actions_do_not_saturate_where_nothing_is_companded(tmp_path):
    spec = EpisodeSpec.of({"x": LeafSpec("continuous", low=-1e4, high=1e4)}, LeafSpec("continuous", low=-1e3, high=1e3))
    values = np.linspace(-999, 999, 9, dtype=np.float32)
    with StoreWriter(tmp_path / "s", "s", spec, {}) as writer:
        writer.write(Episode({"x": values}, {"action": values}, np.zeros(9, np.float32)))
    x, action = check_store(tmp_path / "s", progress=False).leaves
    assert (x.saturated, action.saturated) == (pytest.approx(6 / 9), 0)


def test_a_corpus_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "DISTINCT", 50)
    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
    with StoreWriter(tmp_path / "s", "s", spec, {}) as writer:
        for k in range(80):
            writer.write(Episode({"text": [f"document {k}"]}, {}, np.zeros(1, np.float32)))
    (text,) = check_store(tmp_path / "s", progress=False).leaves
    assert text.distinct == 50
    assert text.constant == 0
