"""Damaged files of every format: a clear error or the right data, never another exception, a hang or half a store.

Where a format has checksums, what is read must be right to the bit. Plain HDF5 and parquet
(their writers can make checksums), Arrow, video, JPEG, JSON and text have none: there a flipped byte may be a legal
other value, and all that can be asked is that it is one.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store
from gato.tokenizers.errors import GatoError

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("google_crc32c")
pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("pyarrow")
pytest.importorskip("av")

import test_lerobot
import test_minari
import test_rlu_raw
import tfds_files
from test_image_text import picture

CASES = 40
# Of these, the data files are protected to the last bit.
PROTECTED = {
    "npz": ".npz",
    "hdf5": ".h5",
    "tfrecord": "tfrecord-0",
    "array_record": "array_record-0",
    "rlu": "-of-00002",
    "parquet": ".parquet",
    "store": "",
}


def arrays(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for k in range(4):
        leaves = {
            "observations/x": rng.normal(size=(6, 3)),
            "observations/word": np.array("go"),
            "actions": np.zeros((6, 2)),
        }
        np.savez_compressed(folder / f"{k}.npz", **leaves, rewards=rng.random(6))
    return folder


def hdf5(folder: Path) -> Path:
    import h5py

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with h5py.File(folder / "mine.h5", "w", libver="latest") as file:  # older ones have no checksums of their headers
        for k in range(4):
            group = file.create_group(f"episode_{k}")
            group.create_dataset("observations/x", data=rng.normal(size=(6, 3)), compression="gzip", fletcher32=True)
            group.create_dataset("actions", data=rng.uniform(-1, 1, (6, 2)), chunks=(6, 2), fletcher32=True)
    return folder / "mine.h5"


def prepared(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        name, config, features = tfds_files.load("rlu_control_suite")
        rng = np.random.default_rng(1)
        examples = [tfds_files.fill(features, rng, steps=5) for _ in range(5)]
        return tfds_files.write(folder, name, config, features, examples, kind)

    return make


def rlu(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    return test_rlu_raw.write(folder, [test_rlu_raw.control(rng, 6, k) for k in range(4)])


def minari(data_format: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINARI_DATASETS_PATH", str(folder))
            test_minari.create("lab/nested-v0", [test_minari.nested(4), test_minari.nested(5)], data_format)
        return folder / "lab" / "nested-v0"

    return make


def jsonl(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [json.dumps({"text": f"line {k} – ü", "n": k}) for k in range(20)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    (folder / "b.txt.gz").write_bytes(gzip.compress("ein längerer Text\n".encode() * 20))
    return folder


def parquet(folder: Path) -> Path:
    import pyarrow.parquet

    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"text": f"line {k} – ü"} for k in range(50)])
    pyarrow.parquet.write_table(table, folder / "a.parquet", write_page_checksum=True)
    return folder


def pictures(folder: Path) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for k in range(4):
        kind = "PNG" if k % 2 else "JPEG"
        (folder / f"{k}.img").write_bytes(picture(k, (40, 50), kind))
        lines.append({"image": f"{k}.img", "text": f"a thing {k}"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def tar(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for k in range(4):
            for name, data in ((f"{k}.jpg", picture(k, (40, 50))), (f"{k}.txt", b"a thing")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder


def store(folder: Path) -> Path:
    source = arrays(folder / "source")
    import_source(SourceReference(str(source)), folder / "store", progress=False)
    return folder / "store"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "npz": arrays,
    "hdf5": hdf5,
    "tfrecord": prepared("tfrecord"),
    "array_record": prepared("array_record"),
    "rlu": rlu,
    "minari-hdf5": minari("hdf5"),
    "minari-arrow": minari("arrow"),
    "lerobot": test_lerobot.write_v21,
    "lerobot-3": test_lerobot.write_v30,
    "jsonl": jsonl,
    "parquet": parquet,
    "pictures": pictures,
    "tar": tar,
    "store": store,
}


def contents(path: Path) -> list[Any]:
    found = Store(path)
    episodes = [found.episode(k) for k in range(len(found))]
    return [
        [
            (name, values if isinstance(values, list) else np.asarray(values).tobytes())
            for leaves in (episode.observations, episode.actions)
            for name, values in leaves.items()
        ]
        + [episode.rewards.tobytes(), sorted(episode.metadata.items(), key=str), episode.terminated]
        for episode in episodes
    ]


def read(kind: str, path: Path, dest: Path, bad: Any = "fail") -> list[Any]:
    """Everything that the source holds, by way of a store."""
    if kind != "store":
        import_source(SourceReference(str(path)), dest, bad=bad, progress=False)
    rows = contents(path if kind == "store" else dest)
    for row in rows:  # the identity of the source is not its data
        row[-2] = [entry for entry in row[-2] if entry[0] != "import"]
    return rows


def outcome(kind: str, path: Path, dest: Path, bad: Any) -> tuple[list[Any] | None, str]:
    """What was read, or None and why it was refused."""
    try:
        return read(kind, path, dest, bad), ""
    except GatoError as error:
        return None, str(error)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", MAKERS)
def test_damage_is_an_error_or_changes_nothing(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind.replace("-", "_"))
    good = MAKERS[kind](folder / "good")
    expected = read(kind, good, folder / "reference")
    root = good if good.is_dir() else good.parent
    files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file() and file.stat().st_size)
    rng = np.random.default_rng(list(kind.encode()))
    refused = 0
    for case in range(CASES):
        shutil.rmtree(folder / "bad", ignore_errors=True)
        shutil.rmtree(folder / "out", ignore_errors=True)
        copy = folder / "bad" / root.name
        shutil.copytree(root, copy)
        victim = files[int(rng.integers(len(files)))]
        data = bytearray((copy / victim).read_bytes())
        where = int(rng.integers(len(data)))
        if case % 3 == 0:
            del data[where:]
        else:
            data[where] ^= 1 << int(rng.integers(8))
        (copy / victim).write_bytes(data)
        path = copy if good.is_dir() else copy / good.name
        bad = "skip" if case % 4 == 3 and kind != "store" else "fail"
        what = f"case {case}: {victim}, {'cut to' if case % 3 == 0 else 'a bit flipped at'} {where}, {bad}"
        found, message = outcome(kind, path, folder / "out", bad)
        if found is None:
            refused += 1
            assert len(message) > 20, what
            assert not (folder / "out").exists(), what
            shutil.rmtree(folder / ".out.import", ignore_errors=True)
        elif kind in PROTECTED and PROTECTED[kind] in victim.name:
            skipped = bad == "skip" and (folder / "out" / "skipped.jsonl").read_text()
            assert [row for row in expected if row in found] == found, what
            assert len(found) == len(expected) or skipped, what
    assert refused > CASES // 10
