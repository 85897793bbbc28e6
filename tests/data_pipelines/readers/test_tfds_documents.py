"""Documents of prepared TFDS directories: pictures with several texts, five pairs in a row, empty texts."""

from __future__ import annotations

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError

pytest.importorskip("tensorflow_datasets")

import tfds_files
from pair_rows import check_rows, texts


def test_rows_of_five_captioned_pictures(tmp_path, imported, described):
    """The real features of COCO captions: neighbours in a document, the last filled up with the first."""
    name, config, features = tfds_files.load("coco_captions")
    rng = np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng) for _ in range(7)]
    for number, example in enumerate(examples):
        example["captions"] = [{"id": k, "text": f"{word} {number}"} for k, word in enumerate(("thing", "object"))]
    folder = tfds_files.write(tmp_path / "d", name, config, features, examples)
    store = imported(described(folder))
    assert len(store) == 4
    assert texts(store) == [
        f"{word} {k % 7}" for first in (0, 5) for word in ("thing", "object") for k in range(first, first + 5)
    ]
    assert check_rows(store) == {f"{word} {k}" for word in ("thing", "object") for k in range(7)}


def test_rows_of_five_questions(tmp_path, imported, described):
    from tensorflow_datasets.core import features as f

    image = f.Image(shape=(None, None, 3), encoding_format="jpeg")
    features = f.FeaturesDict({"image": image, "question": f.Text(), "answers": f.Sequence(f.Text())})
    rng = np.random.default_rng(0)
    examples = [
        {"image": tfds_files.picture(image, rng), "question": f"what is {k}?", "answers": ["a ball", f"thing {k}"]}
        for k in range(5)
    ]
    folder = tfds_files.write(tmp_path / "d", "vqa", None, features, examples)
    store = imported(described(folder, question="question", answer="answers"))
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
        imported(described(folder), dest="five")


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
    store = imported(described(folder))
    assert texts(store) == ["a", "b", "d", "e", "a"]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (2, 0)
