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

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import GatoError, SpecError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")

import tfds_files

# Lists of lists, as ref_coco has them, tfds writes only with TensorFlow; that one has a test of its own.
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
    tfds_files.name_labels(features)
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=3 + k) for k in range(3)]
    folder = tfds_files.write(tmp_path / real / (config or "") / "1.0.0", real, config, features, examples)
    assert tfds.builder_from_directory(str(folder)).info.splits["train"].num_examples == 3
    options = {"options": {"text": CHOSEN[name]}} if name in CHOSEN else {}
    store = imported(spec_file(source=str(folder), **options))
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


def test_lists_of_lists_are_read_or_refused(tmp_path, imported, spec_file):
    """ref_coco: several expressions for each of several objects, laid out as tfds does with TensorFlow."""
    from tensorflow_datasets.core.example_parser import tf_example_pb2

    name, config, features = tfds_files.load("ref_coco")
    expressions = [["the cup", "left cup", "a red cup"], ["the table"]]
    message = tf_example_pb2.Example()
    fields = message.features.feature
    for key, info in features.get_serialized_info().items():
        for path, leaf in flat(info, key):
            count = 1 if not path.startswith(("objects", "coco")) else 2
            size = 4 if path.endswith("bbox") else 1
            if path == "image" or path.endswith("mask"):
                file = tfds_files.picture(features["image"], np.random.default_rng(0))
                fields[path].bytes_list.value.extend([file] * count)
            elif "refexp" in path:
                values = fields[f"{path}/ragged_flat_values"]
                if path.endswith("raw"):
                    values.bytes_list.value.extend(text.encode() for words in expressions for text in words)
                else:
                    values.int64_list.value.extend(range(4))
                fields[f"{path}/ragged_row_lengths_0"].int64_list.value.extend(map(len, expressions))
            elif np.dtype(leaf.np_dtype).kind == "f":
                fields[path].float_list.value.extend([0.5] * count * size)
            else:
                fields[path].int64_list.value.extend([7] * count)
    folder = written_by_hand(tmp_path / "d", name, config, features, message.SerializeToString())
    with pytest.raises(SourceError, match=r"which feature is the text\? it has none; say it"):
        imported(folder)
    store = imported(spec_file(source=str(folder), options={"text": "objects/refexp/raw"}))
    read = [store.episode(k).observations["text"] for k in range(len(store))]
    assert read == [["the cup"], ["left cup"], ["a red cup"], ["the table"]]


def written_by_hand(folder: Path, name: str, config: str | None, features: Any, record: bytes = b"x") -> Path:
    """A directory of one record that tfds would not write."""
    tfds_files.write(folder, name, config, features, [], shards=1)
    about = json.loads((folder / "dataset_info.json").read_text())
    about["splits"][0]["shardLengths"] = ["1"]
    (folder / "dataset_info.json").write_text(json.dumps(about))
    tfds_files.write_records(folder / f"{name}-train.array_record-00000-of-00001", [record], "array_record")
    return folder


def flat(info: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(info, dict):
        return [(path, info)]
    return [found for key, child in info.items() for found in flat(child, f"{path}/{key}")]


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
    # Writing such an example needs TensorFlow; the description alone is refused.
    folder = written_by_hand(tmp_path / "d", "d", None, features)
    with pytest.raises(SourceError, match=r"observations\.s is a Sequence inside a step.*leave it out"):
        imported(folder)
    with pytest.raises(SourceError, match=r"record 0: does not match features\.json"):
        imported(spec_file(source=str(folder), leaves={"observations.s": None}))


def features_of(**leaves: Any) -> Any:
    """Features of episodes with these leaves and nothing else."""
    from tensorflow_datasets.core import features as f

    marks = dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_)
    return f.FeaturesDict({"steps": f.Dataset({"observation": leaves, "action": np.float32, **marks})})


def test_a_leaf_whose_shape_varies_is_refused(tmp_path, imported):
    """A cloud of points, of which every step has another number."""
    from tensorflow_datasets.core import features as f

    features = features_of(x=f.Tensor(shape=(2,), dtype=np.float32), points=f.Tensor(shape=(None, 3), dtype=np.float32))
    folder = written_by_hand(tmp_path / "d", "d", None, features)
    with pytest.raises(SourceError, match=r"observations\.points varies in shape \(None, 3\); leave it out: leaves="):
        imported(folder)


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_clouds_of_points_stored_as_bytes_and_double_precision(tmp_path, imported, spec_file, encoding):
    """Doubles come as float32, once rounded, however they are stored; a leaf that varies can be left out."""
    from tensorflow_datasets.core import features as f

    leaves = {"x": f.Tensor(shape=(3,), dtype=np.float64, encoding=encoding)}
    left_out = {}
    if encoding != "none":  # plain ones are not written
        leaves["points"] = f.Tensor(shape=(None, 3), dtype=np.float32, encoding=encoding)
        left_out = {"leaves": {"observations.points": None}}
    features = features_of(**leaves)
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=4) for _ in range(2)]
    for example in examples:
        for number, step in enumerate(example["steps"]):
            step["observation"]["x"] = rng.normal(size=3) * 10.0**number + 1e-9
    folder = tfds_files.write(tmp_path / "d", "d", None, features, examples)
    store = imported(spec_file(source=str(folder), **left_out))
    for number, example in enumerate(examples):
        read = store.episode(number).observations
        assert list(read) == ["x"]
        assert read["x"].dtype == np.float32
        close(read["x"], np.stack([step["observation"]["x"] for step in example["steps"][:-1]]))


@pytest.mark.parametrize("steps", [0, 1])
def test_an_episode_without_a_step_is_named(tmp_path, imported, steps):
    """By the RLDS convention a single step only shows where the episode ended."""
    name, config, features = tfds_files.load("rlu_control_suite")
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=count) for count in (4, steps, 5)]
    folder = tfds_files.write(tmp_path / "d", name, config, features, examples, shards=1)
    with pytest.raises(SourceError, match="00000-of-00001: record 1: an episode without a step"):
        imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [3, 4]


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
