"""Pictures with captions and questions: folders and WebDataset tars."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.errors import SourceError, StoreError


def picture(seed: int, size=(224, 224), kind="JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(7, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR).save(buffer, kind)
    return buffer.getvalue()


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_a_folder_with_captions(tmp_path, imported):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(0))
    (folder / "b.png").write_bytes(picture(1, (300, 500), "PNG"))
    lines = [{"image": "a.jpg", "text": ["a chair", "a wooden chair"]}, {"file_name": "b.png", "caption": "a table"}]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    store = imported(folder)
    assert store.jpeg == ["image"]
    episodes = [store.episode(k) for k in range(len(store))]
    assert [e.observations["text"] for e in episodes] == [["a chair"], ["a wooden chair"], ["a table"]]
    # A JPEG file of the right size is kept to the byte; others are scaled without distortion.
    np.testing.assert_array_equal(episodes[1].observations["image"][0], decoded(picture(0)))
    whole = decoded(picture(1, (300, 500), "PNG"))
    middle = np.asarray(Image.fromarray(whole[:, 100:400]).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.abs(episodes[2].observations["image"][0].astype(int) - middle).mean() < 4


def test_questions_in_tars(tmp_path, imported):
    folder = tmp_path / "vqa"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as archive:
            for k in range(3):
                about = json.dumps({"question": "what is it?", "answer": f"{shard}.{k}"}).encode()
                for name, data in ((f"{k:04d}.jpg", picture(k)), (f"{k:04d}.json", about)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    store = imported(folder)
    assert list(store.spec.observations) == ["image", "question", "answer"]
    answers = [store.episode(k).observations["answer"][0] for k in range(len(store))]
    assert answers == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    tar = folder / "shard-1.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"shard-1\.tar"):
        imported(folder, dest="again")


def test_damage_and_missing_pictures_are_named(tmp_path, imported):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture(0)[:-700])
    (folder / "b.jpg").write_bytes(picture(1))
    lines = [{"image": name, "text": "x"} for name in ("b.jpg", "a.jpg", "c.jpg", "../secret.jpg")]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(SourceError, match=r"captions\.jsonl: line 2: a damaged image"):
        imported(folder)
    store = imported(folder, dest="rest", bad="skip")
    assert len(store) == 1
    why = (tmp_path / "rest" / "skipped.jsonl").read_text()
    assert "'c.jpg' is missing" in why
    assert "lies outside the folder" in why


def shop(folder, count: int, size=(224, 224)) -> None:
    folder.mkdir()
    for k in range(count):
        (folder / f"{k}.jpg").write_bytes(picture(k, size))
    lines = [{"image": f"{k}.jpg", "text": [f"thing {k}", f"object {k}"]} for k in range(count)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_changed_pictures_are_other_data(tmp_path, imported):
    shop(tmp_path / "shop", 3)
    imported(tmp_path / "shop")
    (tmp_path / "shop" / "1.jpg").write_bytes(picture(9))
    with pytest.raises(StoreError, match="holds another import"):
        imported(tmp_path / "shop")


def test_a_bad_first_line_can_be_skipped_and_nothing_of_a_bad_one_is_kept(tmp_path, imported):
    shop(tmp_path / "shop", 2)
    listed = tmp_path / "shop" / "captions.jsonl"
    mixed = {"image": "0.jpg", "question": ["what?", "why?"], "answer": ["a", "b"]}
    listed.write_text("{broken\n\n" + listed.read_text() + "\n" + json.dumps(mixed))
    with pytest.raises(SourceError, match=r"captions\.jsonl: line 1: no JSON"):
        imported(tmp_path / "shop")
    store = imported(tmp_path / "shop", dest="rest", bad="skip")
    read = [store.episode(k).observations["text"][0] for k in range(len(store))]
    assert read == ["thing 0", "object 0", "thing 1", "object 1"]
    why = (tmp_path / "rest" / "skipped.jsonl").read_text().splitlines()
    assert len(why) == 2
    assert "line 5: captions and questions in one source" in why[1]


def test_an_empty_object_is_no_empty_line(tmp_path, imported):
    shop(tmp_path / "shop", 2)
    listed = tmp_path / "shop" / "captions.jsonl"
    listed.write_text(listed.read_text().replace("\n", "\n\n{}\n"))
    with pytest.raises(SourceError, match=r"captions\.jsonl: line 3: no field 'text', nor 'question' and 'answer'"):
        imported(tmp_path / "shop")
    store = imported(tmp_path / "shop", dest="rest", bad="skip")
    assert len(store) == 4
    assert store.metadata["import"]["skipped"] == 1


def test_one_question_with_several_answers(tmp_path, imported):
    shop(tmp_path / "shop", 1)
    about = {"image": "0.jpg", "question": "what is it?", "answer": ["a ball", "a toy"]}
    (tmp_path / "shop" / "captions.jsonl").write_text(json.dumps(about))
    store = imported(tmp_path / "shop")
    read = [store.episode(k).observations for k in range(len(store))]
    assert [(r["question"][0], r["answer"][0]) for r in read] == [("what is it?", "a ball"), ("what is it?", "a toy")]
