"""RL Unplugged's own gzip files, in its three layouts."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import SpecError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")

import tfds_files


def example(values: dict[str, Any]) -> bytes:
    from tensorflow_datasets.core.example_parser import tf_example_pb2

    message = tf_example_pb2.Example()
    for key, value in values.items():
        feature = message.features.feature[key]
        flat = value if isinstance(value, list) else np.ravel(value).tolist()
        if isinstance(flat[0], bytes):
            feature.bytes_list.value.extend(flat)
        elif isinstance(flat[0], int):
            feature.int64_list.value.extend(flat)
        else:
            feature.float_list.value.extend(flat)
    return message.SerializeToString()


def write(folder: Path, episodes: list[dict[str, Any]], name: str = "train") -> Path:
    folder.mkdir(parents=True)
    for shard in range(2):
        records = b"".join(tfds_files.framed(example(values)) for values in episodes[shard::2])
        (folder / f"{name}-{shard:05d}-of-00002").write_bytes(gzip.compress(records))
    return folder


def png(rng: np.random.Generator, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def control(rng: np.random.Generator, steps: int, number: int) -> dict[str, Any]:
    return {
        "observation/position": rng.normal(size=(steps, 3)),
        "observation/height": rng.normal(size=steps),
        "action": rng.uniform(-1, 1, (steps, 2)),
        # RSA: reward 10.0 t stands beside the observation that the action of t - 1 led to.
        "reward": np.arange(steps) * 10.0,
        "discount": np.ones(steps),
        "step_type": np.ones(steps),
        "episode_id": np.array([number]),
        "timestamp": np.array([7]),
    }


def test_control_suite_rewards_move_to_the_action_that_earned_them(tmp_path, imported):
    rng = np.random.default_rng(0)
    episodes = [control(rng, 4 + k, k) for k in range(4)]
    store = imported(write(tmp_path / "cartpole_swingup", episodes))
    assert store.metadata["import"]["format"] == "rlu"
    order = [0, 2, 1, 3]  # by shards
    assert [store.episode(k).metadata["episode_id"] for k in range(4)] == [str(k) for k in order]
    for k, number in enumerate(order):
        written, read = episodes[number], store.episode(k)
        steps = 3 + number
        assert read.rewards.tolist() == [10.0 * (t + 1) for t in range(steps)]
        np.testing.assert_array_equal(
            read.observations["position"], written["observation/position"][:steps].astype(np.float32)
        )
        assert read.observations["height"].shape == (steps,)
        np.testing.assert_array_equal(read.actions["action"], written["action"][:steps].astype(np.float32))
        assert read.truncated
        assert not read.terminated


def test_atari(tmp_path, imported):
    rng = np.random.default_rng(0)
    frames = [png(rng, (84, 84)) for _ in range(5)]
    episode = {
        "observations": frames,
        "actions": np.array([0, 17, 3, 4, 0]),
        "unclipped_rewards": np.array([0.0, 7.0, 0.0, 1.0, 0.0]),
        "clipped_rewards": np.array([0.0, 1.0, 0.0, 1.0, 0.0]),
        "discounts": np.array([1.0, 1.0, 1.0, 1.0, 0.0]),
        "checkpoint_idx": np.array([3]),
        "episode_idx": np.array([11]),
        "episode_return": np.array([8.0]),
        "clipped_episode_return": np.array([2.0]),
    }
    store = imported(write(tmp_path / "Breakout", [episode] * 2, "run_1"))
    read = store.episode(0)
    assert read.actions["action"].tolist() == [0, 17, 3, 4]
    assert read.rewards.tolist() == [0, 7, 0, 1]
    assert store.spec.actions["action"].values == 18
    assert read.terminated
    for t in range(4):
        np.testing.assert_array_equal(
            read.observations["observation"][t, ..., 0], np.asarray(Image.open(io.BytesIO(frames[t])))
        )


def test_deepmind_lab(tmp_path, imported):
    rng = np.random.default_rng(0)
    steps = 4
    episode = {
        "observations_pixels": [png(rng, (72, 96, 3)) for _ in range(steps)],
        "observations_reward": rng.random(steps),
        "observations_action": np.eye(15)[[0, 3, 14, 1]],
        "actions": np.array([3, 14, 1, 2]),
        "rewards": rng.random(steps),
        "discounted_rewards": rng.random(steps),
        "discounts": np.ones(steps),
        "episode_id": np.array([5]),
        "start_idx": np.array([0]),
        "episode_return": np.array([1.0]),
    }
    store = imported(write(tmp_path / "training_0", [episode] * 2, "tfrecord"))
    read = store.episode(0)
    assert read.observations["last_action"].tolist() == [0, 3, 14]
    assert read.actions["action"].tolist() == [3, 14, 1]
    assert read.observations["pixels"].shape == (3, 72, 96, 3)


def test_damage_is_named(tmp_path, imported):
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "cartpole_swingup", [control(rng, 30, k) for k in range(6)])
    file = folder / "train-00001-of-00002"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"train-00001-of-00002: record \d"):
        imported(folder)
    file.write_bytes(gzip.compress(gzip.decompress(data)[:-5]))
    with pytest.raises(SourceError, match=r"train-00001-of-00002: record 2: damaged"):
        imported(folder)


def test_a_bad_episode_costs_no_other(tmp_path, imported):
    """Even where every file has one: an episode is left out, not its file."""
    rng = np.random.default_rng(0)
    episodes = [control(rng, 6, k) for k in range(6)]
    episodes[0]["observation/position"][2, 1] = np.nan  # the very first of the first file
    episodes[3]["action"] = episodes[3]["action"][:-1]
    folder = write(tmp_path / "cartpole_swingup", episodes)
    with pytest.raises(SpecError, match=r"train-00000-of-00002: record 0: observations\.position: step 2: NaN"):
        imported(folder)
    store = imported(folder, bad="skip")
    assert [store.episode(k).metadata["episode_id"] for k in range(len(store))] == ["2", "4", "1", "5"]
    why = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
    assert len(why) == 2
    assert "train-00001-of-00002: record 1: action: 10 values do not divide into 6 steps" in why[1]


def test_short_rewards_are_named(tmp_path, imported):
    rng = np.random.default_rng(0)
    episode = {
        "observations": [png(rng, (84, 84)) for _ in range(5)],
        "actions": np.zeros(5, np.int64),
        "unclipped_rewards": np.zeros(4),
        "discounts": np.ones(5),
        "episode_idx": np.array([11]),
    }
    with pytest.raises(SourceError, match=r"record 0: rewards: 4 of them, but actions\.action has 5 steps"):
        imported(write(tmp_path / "Breakout", [episode] * 2, "run_1"))


def test_a_shard_that_is_missing_or_empty_is_not_left_out_in_silence(tmp_path, imported):
    """The names say how many there are; a copy that was killed leaves files without a byte."""
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "cartpole_swingup", [control(rng, 6, k) for k in range(4)])
    first, second = (folder / f"train-0000{k}-of-00002" for k in range(2))
    second.rename(folder / "train-00003-of-00004")
    with pytest.raises(SourceError, match="train-00000-of-00004: missing; by their names there are 4 shards"):
        imported(folder)  # two sets of shards, neither of them whole
    (folder / "train-00003-of-00004").rename(second)
    data = first.read_bytes()
    for damage in (b"", b"\x00" + data[1:]):
        first.write_bytes(damage)
        with pytest.raises(SourceError, match="train-00000-of-00002: no gzip file"):
            imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [5, 5]
    assert "train-00000-of-00002: no gzip file" in (tmp_path / "store" / "skipped.jsonl").read_text()
    first.write_bytes(data)
    assert len(imported(second, dest="one")) == 2  # a shard that is named alone is wanted alone


def test_a_bad_first_file_can_be_skipped(tmp_path, imported):
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "cartpole_swingup", [control(rng, 6, k) for k in range(4)])
    (folder / "train-00000-of-00002").write_bytes(gzip.compress(b"damaged"))
    with pytest.raises(SourceError, match="train-00000-of-00002: ends in the middle of record 0"):
        imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [5, 5]
