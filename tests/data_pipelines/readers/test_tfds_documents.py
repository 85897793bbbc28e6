"""Documents of prepared TFDS directories: pictures with several texts, five pairs in a row, lists of lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError

pytest.importorskip("tensorflow_datasets")

import tfds_files
from pair_rows import FIVE, check_rows, texts

QUESTIONS = {"question": "question", "answer": "answers"}


def test_rows_of_five_captioned_pictures(tmp_path, imported, described):
    """The real features of COCO captions: neighbours in a document, the last filled up with the first."""
    name, config, features = tfds_files.load("coco_captions")
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng) for _ in range(7)]
    for number, example in enumerate(examples):
        example["captions"] = [{"id": k, "text": f"{word} {number}"} for k, word in enumerate(("thing", "object"))]
    folder = tfds_files.write(tmp_path / "d", name, config, features, examples)
    store = imported(described(folder, options=FIVE))
    assert len(store) == 4
    assert texts(store) == [
        f"{word} {k % 7}" for first in (0, 5) for word in ("thing", "object") for k in range(first, first + 5)
    ]
    assert check_rows(store) == {f"{word} {k}" for word in ("thing", "object") for k in range(7)}


def questions(tmp_path: Path, count: int) -> Path:
    """A TFDS directory of so many pictures with a question, each of which has two answers."""
    from tensorflow_datasets.core import features as f

    image = f.Image(shape=(None, None, 3), encoding_format="jpeg")
    features = f.FeaturesDict({"image": image, "question": f.Text(), "answers": f.Sequence(f.Text())})
    rng = np.random.default_rng(0)
    examples = [
        {"image": tfds_files.picture(image, rng), "question": f"what is {k}?", "answers": ["a ball", f"thing {k}"]}
        for k in range(count)
    ]
    return tfds_files.write(tmp_path / "d", "vqa", None, features, examples)


def test_rows_of_five_questions(tmp_path, imported, described):
    folder = questions(tmp_path, 5)
    store = imported(described(folder, options=FIVE | QUESTIONS))
    assert len(store) == 2
    seen = {f"what is {k}? {answer}" for k in range(5) for answer in ("a ball", f"thing {k}")}
    assert check_rows(store, ("question", "answer")) == seen


def test_empty_texts_are_counted_and_pairs_need_pictures(tmp_path, imported, described):
    from tensorflow_datasets.core import features as f

    features = f.FeaturesDict({"text": f.Text()})
    folder = tfds_files.write(tmp_path / "d", "wiki", None, features, [{"text": word} for word in ("a", "", "b", "")])
    store = imported(folder)
    assert [store.episode(k).observations["text"] for k in range(len(store))] == [["a"], ["b"]]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (2, 0)
    with pytest.raises(SourceError, match="option pairs is for pictures with text"):
        imported(described(folder, options=FIVE), dest="five")


def test_a_label_that_is_not_known_is_an_empty_text(tmp_path, imported):
    """TFDS writes -1 where a split has no labels."""
    from tensorflow_datasets.core import features as f

    features = f.FeaturesDict({"label": f.ClassLabel(names=["cat", "dog"])})
    examples = [{"label": number} for number in (1, -1, 0)]
    store = imported(tfds_files.write(tmp_path / "d", "pets", None, features, examples))
    assert [store.episode(k).observations["text"] for k in range(len(store))] == [["dog"], ["cat"]]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (1, 0)


def test_a_picture_without_a_caption_costs_no_other(tmp_path, imported, described):
    name, config, features = tfds_files.load("coco_captions")
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng) for _ in range(5)]
    for number, captions in enumerate((["a"], ["b", ""], [], ["d"], ["e"])):
        examples[number]["captions"] = [{"id": k, "text": text} for k, text in enumerate(captions)]
    folder = tfds_files.write(tmp_path / "d", name, config, features, examples)
    store = imported(described(folder, options=FIVE))
    assert texts(store) == ["a", "b", "d", "e", "a"]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (2, 0)


def test_lists_of_lists_are_read_or_refused(tmp_path, imported, described):
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
    folder = tfds_files.write_record(tmp_path / "d", name, config, features, message.SerializeToString())
    with pytest.raises(SourceError, match=r"which feature is the text\? it has none; say it"):
        imported(folder)
    store = imported(described(folder, options={"text": "objects/refexp/raw"}))
    read = [store.episode(k).observations["text"] for k in range(len(store))]
    assert read == [["the cup"], ["left cup"], ["a red cup"], ["the table"]]


def flat(info: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(info, dict):
        return [(path, info)]
    return [found for key, child in info.items() for found in flat(child, f"{path}/{key}")]


def test_questions_with_answers(tmp_path, imported, described):
    folder = questions(tmp_path, 3)
    with pytest.raises(SourceError, match="which feature is the text"):
        imported(folder)
    store = imported(described(folder, options=QUESTIONS))
    assert list(store.spec.observations) == ["image", "question", "answer"]
    read = [store.episode(k).observations for k in range(len(store))]
    pairs = [(observations["question"][0], observations["answer"][0]) for observations in read]
    assert pairs == [(f"what is {k}?", answer) for k in range(3) for answer in ("a ball", f"thing {k}")]
    with pytest.raises(SourceError, match="give text, or both question and answer"):
        imported(described(folder, options={"question": "question"}), dest="half")
