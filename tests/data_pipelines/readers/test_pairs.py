"""Several pairs of picture and text in a document: Gato's rows of five, from every format that has pictures with text,
to the batches that training reads."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from pair_rows import FIVE, SIZE, check_rows, texts
from test_image_text import decoded, picture, shop

from gato.data_pipelines.errors import SourceError


def test_rows_of_a_folder(tmp_path, imported, described):
    """Every picture is in one group, in random company; the last is filled up."""
    shop(tmp_path / "shop", 7, SIZE)
    store = imported(described(tmp_path / "shop", options=FIVE))
    assert len(store) == 4  # two groups of pictures, two captions each
    for k in range(4):
        observations = store.episode(k).observations
        for number in range(1, 6):
            word, _, which = observations[f"text_{number}"][0].partition(" ")
            assert word == ("thing", "object")[k % 2]
            np.testing.assert_array_equal(observations[f"image_{number}"][0], decoded(picture(int(which), SIZE)))
    every = {f"{word} {k}" for word in ("thing", "object") for k in range(7)}
    assert set(texts(store)) == every
    assert texts(store)[:5] != [f"thing {k}" for k in range(5)]
    assert check_rows(store) == every


def test_rows_of_questions_in_tars(tmp_path, imported, described):
    (tmp_path / "vqa").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "vqa" / f"shard-{shard}.tar", "w") as archive:
            for k in range(5):
                about = json.dumps({"question": "what is it?", "answer": f"thing {5 * shard + k}"}).encode()
                for name, data in ((f"{k:04d}.jpg", picture(k, SIZE)), (f"{k:04d}.json", about)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    store = imported(described(tmp_path / "vqa", options=FIVE))
    assert len(store) == 2
    assert check_rows(store, ("question", "answer")) == {f"what is it? thing {k}" for k in range(10)}


def test_no_good_pair_is_lost(tmp_path, imported, described):
    """Neither to empty lines, which are nothing, nor to bad pairs, each of which is listed."""
    shop(tmp_path / "shop", 10, SIZE)
    listed = tmp_path / "shop" / "captions.jsonl"
    whole = listed.read_text()
    listed.write_text(whole.replace("\n", "\n\n") + "\n\n")
    every = {f"{word} {k}" for word in ("thing", "object") for k in range(10)}
    store = imported(described(tmp_path / "shop", options=FIVE))
    assert len(store) == 4
    assert set(texts(store)) == every
    lines = [*whole.splitlines(), "{}", '{"image": "nowhere.jpg", "text": "x"}', '{"image": "0.jpg", "text": ""}']
    listed.write_text("\n".join(lines))
    with pytest.raises(SourceError, match=r"captions\.jsonl: line 1[123]: "):
        imported(described(tmp_path / "shop", options=FIVE), dest="again")
    store = imported(described(tmp_path / "shop", options=FIVE), dest="rest", bad="skip")
    assert set(texts(store)) == every
    why = "".join(
        sorted(json.loads(line)[1] for line in (tmp_path / "rest" / "skipped.jsonl").read_text().splitlines())
    )
    assert [f"line {number}:" in why for number in (10, 11, 12, 13)] == [False, True, True, True]


@pytest.mark.parametrize("pairs", [0, -1, 2.5, "5"])
def test_a_number_of_pairs_that_is_none(tmp_path, imported, described, pairs):
    shop(tmp_path / "shop", 2)
    with pytest.raises(SourceError, match="option pairs must be a whole number of at least 1, got"):
        imported(described(tmp_path / "shop", options={"pairs": pairs}))
