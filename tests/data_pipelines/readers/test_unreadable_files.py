"""A file that cannot even be opened: refused by its name before anything is written, or left out and listed."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError

Made = tuple[Path, Path, int, int]  # the source, one of its files, episodes without that file, records that it costs


def jsonl(folder: Path) -> Made:
    for name in "abc":
        rows = "".join(json.dumps({"text": f"{name}{k}"}) + "\n" for k in range(5))
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return folder, folder / "b.jsonl.gz", 10, 1


def parquet(folder: Path) -> Made:
    pa, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in "abc":
        writer.write_table(pa.table({"text": [f"{name}{k}" for k in range(5)]}), folder / f"{name}.parquet")
    return folder, folder / "b.parquet", 10, 1


def hdf5(folder: Path) -> Made:
    h5py = pytest.importorskip("h5py")
    for name in "abc":
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for k in range(3):
                file[f"{k}/observations/x"], file[f"{k}/actions"] = np.zeros((4, 2)), np.zeros((4, 1))
    return folder, folder / "b.h5", 6, 1


def tars(folder: Path) -> Made:
    from test_image_text import picture

    for name in "abc":
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for k in range(2):
                for ending, data in (("jpg", picture(k, (40, 50))), ("txt", f"{name}{k}".encode())):
                    info = tarfile.TarInfo(f"{k}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return folder, folder / "b.tar", 4, 1


def tfrecord(folder: Path) -> Made:
    pytest.importorskip("tensorflow_datasets")
    import tfds_files

    name, config, features = tfds_files.load("rlu_control_suite")
    rng = np.random.default_rng(1)
    examples = [tfds_files.fill(features, rng, steps=5) for _ in range(5)]
    path = tfds_files.write(folder, name, config, features, examples, "tfrecord")
    return path, path / f"{name}-train.tfrecord-00001-of-00002", 2, 3


def rlu(folder: Path) -> Made:
    pytest.importorskip("tensorflow_datasets")
    import test_rlu_raw

    rng = np.random.default_rng(1)
    path = test_rlu_raw.write(folder / "cartpole_swingup", [test_rlu_raw.control(rng, 6, k) for k in range(5)])
    return path, path / "train-00001-of-00002", 3, 1


def video(folder: Path) -> Made:
    pytest.importorskip("av")
    import test_lerobot

    path = test_lerobot.write_v21(folder / "towels")
    return path, path / f"videos/chunk-000/{test_lerobot.CAMERA}/episode_000001.mp4", 2, 1


def table_of_robots(folder: Path) -> Made:
    pytest.importorskip("av")
    import test_lerobot

    path = test_lerobot.write_v30(folder / "towels")
    return path, path / "data/chunk-000/file-000.parquet", 1, 2  # of its first two episodes


def arrow(folder: Path) -> Made:
    pytest.importorskip("minari")
    import test_minari

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        test_minari.create("lab/nested-v0", [test_minari.nested(steps) for steps in (4, 5, 6)], "arrow")
    path = folder / "lab" / "nested-v0"
    return path, next((path / "data" / "1").glob("*.arrow")), 2, 1


COUNTED_ON_OPENING: list[Callable[[Path], Made]] = [jsonl, parquet, hdf5, tars]
# So that a missing one is noticed.
LISTED: list[Callable[[Path], Made]] = [tfrecord, rlu, video, table_of_robots, arrow]
CASES = [(make, "cut") for make in (*COUNTED_ON_OPENING, *LISTED)] + [(make, "missing") for make in LISTED]


@pytest.mark.parametrize(("make", "damage"), CASES, ids=lambda word: getattr(word, "__name__", word))
def test_one_bad_file_among_many(make, damage, tmp_path, imported):
    source = tmp_path / "source"
    source.mkdir()
    path, victim, rest, cost = make(source)
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:40])
    else:
        victim.unlink()
    with pytest.raises(SourceError) as error:
        imported(path)
    place = "data: episode 1" if make is arrow else victim.name
    assert place in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "store").exists()
    store = imported(path, dest="rest", bad="skip")
    assert len(store) == rest
    listed = [json.loads(line) for line in (tmp_path / "rest" / "skipped.jsonl").read_text().splitlines()]
    assert len(listed) == store.metadata["import"]["skipped"] == cost
    assert all(place in why for _, why in listed)


@pytest.mark.parametrize("make", COUNTED_ON_OPENING, ids=lambda make: make.__name__)
def test_nothing_is_begun_that_cannot_end(make, tmp_path, imported):
    """Else hours of an import would be lost: a file that was mended makes the data other data."""
    source = tmp_path / "source"
    source.mkdir()
    path, victim, *_ = make(source)
    last = victim.with_name(victim.name.replace("b.", "c.", 1))
    last.write_bytes(last.read_bytes()[:40])
    with pytest.raises(SourceError, match=r"c\."):
        imported(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_a_packed_file_without_a_byte_is_damaged(tmp_path, imported, name):
    """gzip itself reads nothing from it, and has nothing against it."""
    (tmp_path / "b.txt").write_text("some words")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SourceError, match=rf"{name}: cannot be read: no byte in it"):
        imported(tmp_path)
    assert len(imported(tmp_path, bad="skip")) == 1


def test_when_no_file_can_be_opened_the_first_says_why(tmp_path, imported):
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: cannot be read"):
        imported(tmp_path / "a.jsonl.gz")
