"""Prepared TFDS directories of every published data set whose features we have: episodes and documents."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.dataset import DatasetSpec
from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import GatoError, SpecError

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
    for key in path.split("/") if isinstance(value, dict) else ():
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


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_of_another_size_is_named(tmp_path, imported, kind):
    from tensorflow_datasets.core import features as f

    step = {
        "observation": {"camera": f.Image(shape=(None, None, 3), encoding_format=kind)},
        "action": f.Tensor(shape=(2,), dtype=np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
    }
    features = f.FeaturesDict({"steps": f.Dataset(step)})

    def picture(height: int, width: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), (9, 80, 200)).save(buffer, kind.upper())
        return buffer.getvalue()

    def episode(odd: int) -> dict[str, Any]:
        steps = [
            {
                "observation": {"camera": picture(*((32, 16) if number == odd else (16, 32)))},
                "action": np.zeros(2, np.float32),
                **dict.fromkeys(("is_first", "is_last", "is_terminal"), False),
            }
            for number in range(5)
        ]
        steps[-1]["is_last"] = True
        return {"steps": steps}

    folder = tfds_files.write(tmp_path / "d", "d", None, features, [episode(-1), episode(2)], shards=1)
    with pytest.raises(
        (SourceError, SpecError), match=r"00000-of-00001: record 1: observations\.camera: step 2: an image of"
    ):
        imported(folder)
    store = imported(folder, bad="skip")
    assert store.lengths.tolist() == [4]
    assert store.episode(0).observations["camera"].shape == (4, 16, 32, 3)


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

    step = {
        "observation": f.Tensor(shape=(4000,), dtype=np.float32, encoding="bytes"),
        "action": f.Tensor(shape=(1,), dtype=np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
    }
    features = f.FeaturesDict({"steps": f.Dataset(step)})
    rng = np.random.default_rng(0)
    folder = tfds_files.write(
        tmp_path / "d", "d", None, features, [tfds_files.fill(features, rng) for _ in range(8)], shards=1
    )
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


def test_questions_with_answers(tmp_path, imported, spec_file):
    from tensorflow_datasets.core import features as f

    features = f.FeaturesDict(
        {
            "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "question": f.Text(),
            "answers": f.Sequence(f.Text()),
        }
    )
    rng = np.random.default_rng(0)
    examples = [
        {"image": tfds_files.picture(features["image"], rng), "question": f"what is {k}?", "answers": ["a", f"b{k}"]}
        for k in range(3)
    ]
    folder = tfds_files.write(tmp_path / "d", "vqa", None, features, examples)
    with pytest.raises(SourceError, match="which feature is the text"):
        imported(folder)
    store = imported(spec_file(source=str(folder), options={"question": "question", "answer": "answers"}))
    assert list(store.spec.observations) == ["image", "question", "answer"]
    read = [store.episode(k).observations for k in range(len(store))]
    pairs = [(observations["question"][0], observations["answer"][0]) for observations in read]
    assert pairs == [(f"what is {k}?", answer) for k in range(3) for answer in ("a", f"b{k}")]
    with pytest.raises(SourceError, match="give text, or both question and answer"):
        imported(spec_file(source=str(folder), options={"question": "question"}), dest="half")
