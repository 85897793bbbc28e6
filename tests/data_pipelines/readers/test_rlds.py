"""Prepared TFDS directories of every published data set whose features we have: episodes and documents."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.dataset import DatasetSpec
from gato.data_pipelines.errors import SourceError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")

import tfds_files

# Lists of lists, as ref_coco has them, can only be written with TensorFlow.
NAMES = sorted({file.stem for file in tfds_files.FEATURES.glob("*.json")} - {"ref_coco"})
# Where the text is not obvious, a person says which it is.
TEXTS = {
    "c4_wsrs": "original_snippet",
    "coco": "objects/label",
    "imagenet2012_multilabel": "original_label",
    "imagenet2012_real": "original_label",
    "wit": "caption_reference_description",
    "wit_kaggle": "caption_reference_description",
}


def at(value: Any, path: str) -> Any:
    for key in path.split("/"):
        value = value[key]
    return value


@pytest.fixture
def spec_file(tmp_path: Path):
    def write(**fields: Any) -> str:
        words = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        head = "from gato.data_pipelines.dataset import DatasetSpec\nfrom gato.tokenizers.spec import LeafSpec\n"
        (tmp_path / "mine.py").write_text(f"{head}MINE = DatasetSpec({words})\n")
        return str(tmp_path / "mine.py")

    return write


def close(read: Any, written: Any) -> None:
    written = np.asarray(written)
    if written.dtype.kind == "f":
        np.testing.assert_array_equal(read, written.astype(np.float32))
    else:
        np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_data_set_reads_back(name, tmp_path, imported, spec_file):
    import tensorflow_datasets as tfds

    real, config, features = tfds_files.load(name)
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=3 + k) for k in range(3)]
    folder = tfds_files.write(tmp_path / real / (config or "") / "1.0.0", real, config, features, examples)
    assert tfds.builder_from_directory(str(folder)).info.splits["train"].num_examples == 3
    options = {"options": {"text": TEXTS[name]}} if name in TEXTS else {}
    store = imported(spec_file(source=str(folder), **options))
    assert store.name == "/".join(filter(None, (real, config)))
    if "steps" in features:
        assert store.lengths.tolist() == [2, 3, 4]  # the last step has no action
        check_episodes(store, features, examples)
    else:
        check_documents(store, examples, TEXTS.get(name))


def check_episodes(store: Any, features: Any, examples: list[Any]) -> None:
    for number, example in enumerate(examples):
        episode, steps = store.episode(number), example["steps"][:-1]
        np.testing.assert_array_equal(
            episode.rewards, np.asarray([step.get("reward", 0) for step in steps], np.float32)
        )
        assert episode.terminated
        for group, key, bare in (
            (episode.observations, "observation", "observation"),
            (episode.actions, "action", "action"),
        ):
            for path, values in group.items():
                where = f"{key}/{path.replace('.', '/')}" if isinstance(steps[0][key], dict) else key
                if path != bare and not isinstance(steps[0][key], dict):
                    where = path
                written = [at(step, where) for step in steps]
                if isinstance(written[0], bytes):
                    written = [np.asarray(Image.open(io.BytesIO(file))).reshape(values.shape[1:]) for file in written]
                close(values, np.stack(written))


def check_documents(store: Any, examples: list[Any], text: str | None) -> None:
    read = [store.episode(k).observations["text"][0] for k in range(len(store))]
    assert len(read) >= len(examples)
    assert all(read)
    if text is None and "text" in examples[0]:
        assert read == [example["text"] for example in examples]
    if "captions" in examples[0]:
        assert read == [caption["text"] for example in examples for caption in example["captions"]]
    if "image" in examples[0]:
        assert store.episode(0).observations["image"].shape == (1, 224, 224, 3)


@pytest.fixture
def suite(tmp_path):
    name, config, features = tfds_files.load("rlu_control_suite")
    rng = np.random.default_rng(1)
    examples = [tfds_files.fill(features, rng, steps=6) for _ in range(5)]
    return lambda kind="tfrecord": tfds_files.write(tmp_path / kind, name, config, features, examples, kind)


def test_tfrecord_is_arrayrecord(suite, imported):
    first, second = imported(suite("tfrecord"), dest="a"), imported(suite("array_record"), dest="b")
    assert first.fingerprint == second.fingerprint
    assert len(first) == 5


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


def test_the_last_step_can_be_kept(suite, imported, spec_file):
    store = imported(spec_file(source=str(suite()), options={"last_action": True}))
    assert store.lengths.tolist() == [6] * 5


def test_a_sequence_inside_a_step_is_refused(tmp_path, imported, spec_file):
    """tfds' NumPy reader corrupts it silently."""
    from tensorflow_datasets.core import features as f

    step = {
        "observation": {"x": f.Tensor(shape=(2,), dtype=np.float32), "s": f.Sequence(np.float32, length=3)},
        "action": f.Tensor(shape=(2,), dtype=np.float32),
        "reward": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
    }
    features = f.FeaturesDict({"steps": f.Dataset(step)})
    folder = tfds_files.write(tmp_path / "d", "d", None, features, [], shards=1)
    # Writing such an example needs TensorFlow; the description alone is refused.
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tfds_files.write_records(folder / "d-train.array_record-00000-of-00001", [b"x"], "array_record")
    with pytest.raises(SourceError, match=r"observations\.s is a Sequence inside a step.*leave it out"):
        imported(folder)
    with pytest.raises(SourceError, match=r"record 0: does not match features\.json"):
        imported(spec_file(source=str(folder), leaves={"observations.s": None}))


def test_a_users_file_describes_a_new_robot(suite, tmp_path, imported):
    """Nothing in our tree is edited: leaves renamed, an instruction added, a spec and a task given."""
    (tmp_path / "robot.py").write_text(
        """
import dataclasses
from gato.data_pipelines.dataset import DatasetSpec
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

def transform(episode):
    if episode.rewards[0] > 0:
        return None
    observations = {"pose": episode.observations["position"], "order": ["stack the cups"] * len(episode)}
    return dataclasses.replace(episode, observations=observations)

ROBOT = DatasetSpec(
    name="lab/robot",
    transform=transform,
    spec=EpisodeSpec.of(
        {"pose": LeafSpec("continuous", (3,)), "order": LeafSpec("text")},
        LeafSpec("continuous", (1,), low=-1.0, high=1.0),
    ),
    metadata={"task": "lab/stack", "agent": "human"},
)
OTHER = DatasetSpec(name="other")
"""
    )
    assert isinstance(DatasetSpec(), DatasetSpec)
    with pytest.raises(SourceError, match=r"defines ROBOT, OTHER; choose one: .*robot\.py:NAME"):
        imported(tmp_path / "robot.py", path=str(suite()))
    store = imported(f"{tmp_path}/robot.py:ROBOT", path=str(suite()))
    assert store.name == "lab/robot"
    plain = imported(suite(), dest="plain")
    assert 0 < len(store) == sum(plain.episode(k).rewards[0] <= 0 for k in range(5)) < 5
    assert store.group_names == [("lab/stack", "human")]
    assert store.episode(0).observations["order"] == ["stack the cups"] * 5
