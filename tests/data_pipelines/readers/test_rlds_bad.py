"""Prepared TFDS directories that are damaged, cut, empty or beyond what can be read: refused by name, or skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import GatoError, SpecError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")

import tfds_files


def test_damage_and_missing_files_are_named(suite, imported):
    folder = suite()
    first, second = sorted(folder.glob("*.tfrecord-*"))
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    with pytest.raises(SourceError, match=r"tfrecord-00001-of-00002: record \d: damaged"):
        imported(folder)
    second.write_bytes(data[:-30])
    with pytest.raises(SourceError, match="ends in the middle of record"):
        imported(folder)
    second.unlink()
    with pytest.raises(SourceError, match="tfrecord-00001-of-00002: missing; the split has 2 shards"):
        imported(folder)
    first.unlink()
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(SourceError, match=r"dataset_info\.json: cannot be read"):
        imported(folder)


def test_an_empty_split_is_refused(suite, imported):
    folder = suite()
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = []
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(SourceError, match="split 'train' is empty"):
        imported(folder)
    info["splits"] = []
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(SourceError, match="no split 'train'; it has none"):
        imported(folder)


@pytest.mark.parametrize("size", [65_536, 131_072, 0])
def test_an_array_record_file_cut_at_a_block_is_refused(tmp_path, imported, size):
    """Cut to exactly 65,536 bytes its library opens it and reads empty records."""
    from tensorflow_datasets.core import features as f

    features = tfds_files.episodes({"x": f.Tensor(shape=(4000,), dtype=np.float32, encoding="bytes")})
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng) for _ in range(8)]
    folder = tfds_files.write(tmp_path / "d", "d", None, features, examples, shards=1)
    file = folder / "d-train.array_record-00000-of-00001"
    assert file.stat().st_size > 200_000
    assert len(imported(folder, dest="whole")) == 8
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(SourceError, match=r"array_record-00000-of-00001: "):
        imported(folder)
    with pytest.raises(GatoError, match=r"array_record-00000-of-00001: "):
        imported(folder, bad="skip")
    assert not (tmp_path / "store").exists()


def test_a_bad_first_record_can_be_skipped(tmp_path, imported):
    """Also where the size of the pictures is only known from a picture."""
    name, config, features = tfds_files.load("robosuite_panda_pick_place_can")
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=4) for _ in range(4)]
    folder = tfds_files.write(tmp_path / "d", name, config, features, examples, "tfrecord")
    file = next(folder.glob("*-00000-of-*"))
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceError, match="record 0: damaged"):
        imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [3, 3, 3]


@pytest.mark.parametrize("steps", [0, 1])
def test_an_episode_without_a_step_is_named(suite, imported, steps):
    """By the RLDS convention a single step only shows where the episode ended."""
    folder = suite(lengths=(4, steps, 5), shards=1)
    with pytest.raises(SourceError, match="00000-of-00001: record 1: an episode without a step"):
        imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [3, 4]


def edited(folder: Path, features: Any, example: Any, change: Callable[[Any], None]) -> Path:
    """A directory of three records of which the second was changed behind the back of tfds."""
    from tensorflow_datasets.core.example_parser import tf_example_pb2

    records = [features.serialize_example(example)] * 3
    message = tf_example_pb2.Example.FromString(records[1])
    change(message.features.feature)
    records[1] = message.SerializeToString()
    tfds_files.write(folder, "d", None, features, [example] * 3, "tfrecord", shards=1)
    tfds_files.write_records(folder / "d-train.tfrecord-00000-of-00001", records, "tfrecord")
    return folder


def drop_reward(fields: Any) -> None:
    fields["steps/reward"].float_list.value.pop()


def drop_position(fields: Any) -> None:
    fields["steps/observation/position"].bytes_list.value.pop()


def drop_key(fields: Any) -> None:
    del fields["steps/observation/position"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_reward, "steps/reward has values for 5 steps, the others for 6"),
        (drop_position, "steps/observation/position has values for 5 steps, the others for 6"),
        (drop_key, "steps/observation/position is missing"),
    ],
)
def test_a_step_that_lacks_something_is_named(tmp_path, imported, change, message):
    _, _, features = tfds_files.load("rlu_control_suite")
    example = tfds_files.fill(features, np.random.default_rng(0), steps=6)
    folder = edited(tmp_path / "d", features, example, change)
    with pytest.raises(
        SourceError, match=rf"tfrecord-00000-of-00001: record 1: does not match features\.json: {message}"
    ):
        imported(folder)
    assert imported(folder, dest="rest", bad="skip").lengths.tolist() == [5, 5]


def test_a_sequence_inside_a_step_is_refused(tmp_path, imported, described):
    """tfds' NumPy reader corrupts it silently."""
    from tensorflow_datasets.core import features as f

    features = tfds_files.episodes({"x": f.Tensor(shape=(2,), dtype=np.float32), "s": f.Sequence(np.float32, length=3)})
    # Writing such an example needs TensorFlow; the description alone is refused.
    folder = tfds_files.write_record(tmp_path / "d", "d", None, features)
    with pytest.raises(SourceError, match=r"observations\.s is a Sequence inside a step.*leave it out"):
        imported(folder)
    with pytest.raises(SourceError, match=r"record 0: does not match features\.json"):
        imported(described(folder, leaves={"observations.s": None}))


def test_a_leaf_whose_shape_varies_is_refused(tmp_path, imported):
    """A cloud of points, of which every step has another number."""
    from tensorflow_datasets.core import features as f

    features = tfds_files.episodes({"x": np.float32, "points": f.Tensor(shape=(None, 3), dtype=np.float32)})
    folder = tfds_files.write_record(tmp_path / "d", "d", None, features)
    with pytest.raises(SourceError, match=r"observations\.points varies in shape \(None, 3\); leave it out: leaves="):
        imported(folder)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_of_another_size_is_named(tmp_path, imported, kind):
    from tensorflow_datasets.core import features as f

    rng = np.random.default_rng(0)
    # As in the published data sets, nothing says how large the pictures are.
    features = tfds_files.episodes({"camera": f.Image(shape=(None, None, 3), encoding_format=kind)})
    large, small = (f.Image(shape=shape, encoding_format=kind) for shape in ((16, 32, 3), (32, 16, 3)))
    examples = [tfds_files.fill(features, rng, steps=5) for _ in range(2)]
    for number, example in enumerate(examples):
        for time, step in enumerate(example["steps"]):
            other = (number, time) == (1, 2)
            step["observation"]["camera"] = tfds_files.picture(small if other else large, rng)
    folder = tfds_files.write(tmp_path / "d", "d", None, features, examples, shards=1)
    with pytest.raises(
        (SourceError, SpecError), match=r"00000-of-00001: record 1: observations\.camera: step 2: an image of"
    ):
        imported(folder)
    store = imported(folder, bad="skip")
    assert store.lengths.tolist() == [4]
    assert store.episode(0).observations["camera"].shape == (4, 16, 32, 3)
