"""Prepared TFDS directories of every published data set whose features we have: every leaf reads back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.errors import SourceError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")

import tfds_files

# Lists of lists, as ref_coco has them, tfds writes only with TensorFlow: `test_tfds_documents` has a test of it.
NAMES = sorted({file.stem for file in tfds_files.FEATURES.glob("*.json")} - {"ref_coco"})
# Where the text is not obvious, a person says which it is.
CHOSEN = {
    "c4_wsrs": "original_snippet",
    "coco": "objects/label",
    "imagenet2012_multilabel": "original_label",
    "imagenet2012_real": "original_label",
    "wit": "caption_reference_description",
    "wit_kaggle": "caption_reference_description",
}
# Where it is.
FOUND = {
    **dict.fromkeys(("c4", "lm1b", "tiny_shakespeare", "wiki40b"), "text"),
    **dict.fromkeys(("imagenet2012", "imagenet2012_corrupted", "imagenet2012_fewshot", "imagenet2012_subset"), "label"),
    "coco_captions": "captions/text",
}


def at(value: Any, path: str) -> Any:
    for key in path.split("/") if isinstance(value, dict) else ():
        value = value[key]
    return value


def close(read: Any, written: Any) -> None:
    written = np.asarray(written)
    if written.dtype.kind == "f":
        np.testing.assert_array_equal(read, written.astype(np.float32))
    else:
        np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_data_set_reads_back(name, tmp_path, imported, described):
    import tensorflow_datasets as tfds

    real, config, features = tfds_files.load(name)
    tfds_files.name_labels(features)
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=3 + k) for k in range(3)]
    folder = tfds_files.write(tmp_path / real / (config or "") / "1.0.0", real, config, features, examples)
    assert tfds.builder_from_directory(str(folder)).info.splits["train"].num_examples == 3
    options = {"options": {"text": CHOSEN[name]}} if name in CHOSEN else {}
    store = imported(described(folder, **options))
    assert store.name == "/".join(filter(None, (real, config)))
    if "steps" in features:
        assert store.lengths.tolist() == [2, 3, 4]  # the last step has no action
        check_episodes(store, features, examples)
    else:
        check_documents(store, features, examples, (CHOSEN | FOUND)[name])


def check_episodes(store: Any, features: Any, examples: list[Any]) -> None:
    """Everything that was written as observation, action or text of a step is read, and nothing else."""
    for number, example in enumerate(examples):
        episode, steps = store.episode(number), example["steps"][:-1]
        np.testing.assert_array_equal(
            episode.rewards, np.asarray([step.get("reward", 0) for step in steps], np.float32)
        )
        assert episode.terminated
        observations = {
            path: [at(step["observation"], path) for step in steps] for path in paths(steps[0], "observation")
        }
        observations |= {
            key: [step[key] for step in steps] for key, value in steps[0].items() if isinstance(value, str)
        }
        actions = {path: [at(step["action"], path) for step in steps] for path in paths(steps[0], "action")}
        for read, written in ((episode.observations, observations), (episode.actions, actions)):
            assert set(read) == {path.replace("/", ".") for path in written}
            for path, values in written.items():
                found = read[path.replace("/", ".")]
                if isinstance(values[0], bytes):
                    values = [np.asarray(Image.open(io.BytesIO(file))).reshape(found.shape[1:]) for file in values]
                close(found, np.stack(values))


def paths(step: Any, key: str) -> list[str]:
    """Of the leaves below a key, "a/b"; a bare array is called as its key."""

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return [prefix]
        return [path for name, child in node.items() for path in walk(child, f"{prefix}/{name}" if prefix else name)]

    return walk(step[key], "") if isinstance(step[key], dict) else [key]


def check_documents(store: Any, features: Any, examples: list[Any], text: str) -> None:
    """Each text is a document, labels by their names, with the picture of its example."""
    expected = [(words, example.get("image")) for example in examples for words in texts_in(example, text.split("/"))]
    for key in text.split("/"):
        features = features[key]
    if hasattr(features, "names"):
        expected = [(f"class {label} of {len(features.names)}", image) for label, image in expected]
    assert len(store) == len(expected)
    for number, (words, image) in enumerate(expected):
        read = store.episode(number).observations
        assert read["text"] == [words]
        assert set(read) == ({"text"} if image is None else {"image", "text"})
        if image is not None:
            assert read["image"].shape == (1, 224, 224, 3)
            check_fitted(read["image"][0], image)


def texts_in(value: Any, keys: list[str]) -> list[Any]:
    if isinstance(value, list):
        return [words for entry in value for words in texts_in(entry, keys)]
    return texts_in(value[keys[0]], keys[1:]) if keys else [value]


def check_fitted(read: np.ndarray, file: bytes) -> None:
    """A JPEG file of this size is kept; of another picture it is the middle, scaled and encoded once more."""
    whole = Image.open(io.BytesIO(file)).convert("RGB")
    if whole.size == (224, 224):
        np.testing.assert_array_equal(read, np.asarray(whole))
        return
    side, (width, height) = min(whole.size), whole.size
    middle = whole.crop(((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    difference = np.abs(read.astype(int) - np.asarray(middle.resize((224, 224), Image.Resampling.BICUBIC)))
    assert difference.mean() < 3
    turned = np.abs(read.astype(int) - np.asarray(middle.resize((224, 224)).rotate(180)))
    assert turned.mean() > 5 * difference.mean()


def test_tfrecord_is_arrayrecord(suite, imported):
    first, second = imported(suite("tfrecord"), dest="a"), imported(suite("array_record"), dest="b")
    assert first.fingerprint == second.fingerprint
    assert len(first) == 5


def test_the_last_step_can_be_kept(suite, imported, described):
    store = imported(described(suite(), options={"last_action": True}))
    assert store.lengths.tolist() == [6] * 5


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_clouds_of_points_stored_as_bytes_and_double_precision(tmp_path, imported, described, encoding):
    """Doubles come as float32, once rounded, however they are stored; a leaf that varies can be left out."""
    from tensorflow_datasets.core import features as f

    leaves = {"x": f.Tensor(shape=(3,), dtype=np.float64, encoding=encoding)}
    left_out = {}
    if encoding != "none":  # plain ones are not written
        leaves["points"] = f.Tensor(shape=(None, 3), dtype=np.float32, encoding=encoding)
        left_out = {"leaves": {"observations.points": None}}
    features = tfds_files.episodes(leaves)
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=4) for _ in range(2)]
    for example in examples:
        for number, step in enumerate(example["steps"]):
            step["observation"]["x"] = rng.normal(size=3) * 10.0**number + 1e-9
    folder = tfds_files.write(tmp_path / "d", "d", None, features, examples)
    store = imported(described(folder, **left_out))
    for number, example in enumerate(examples):
        read = store.episode(number).observations
        assert list(read) == ["x"]
        assert read["x"].dtype == np.float32
        close(read["x"], np.stack([step["observation"]["x"] for step in example["steps"][:-1]]))


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
    with pytest.raises(SourceError, match=r"defines ROBOT, OTHER; choose one: .*robot\.py:NAME"):
        imported(tmp_path / "robot.py", path=str(suite()))
    store = imported(f"{tmp_path}/robot.py:ROBOT", path=str(suite()))
    assert store.name == "lab/robot"
    plain = imported(suite(), dest="plain")
    assert 0 < len(store) == sum(plain.episode(k).rewards[0] <= 0 for k in range(5)) < 5
    assert store.group_names == [("lab/stack", "human")]
    assert store.episode(0).observations["order"] == ["stack the cups"] * 5
