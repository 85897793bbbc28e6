"""Damaged files of every format: a clear error or the right data, never another exception, a hang or half a store.

What is read must be right to the bit, but for the files of `UNPROTECTED`, whose formats have no checksums: there a
flipped bit may be a legal other value, in as many episodes as the file holds of them, and all others must be untouched.
HDF5 and parquet files are written with the checksums that their writers can make.
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

from gato.data_pipelines.check import check_store
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
# Format -> what a file's name ends in, and of how many episodes a flipped bit in it may change values.
UNPROTECTED: dict[str, dict[str, int]] = {
    "minari-arrow": {".arrow": 1},
    "lerobot": {".mp4": 1, "tasks.jsonl": 2},
    "lerobot-3": {".mp4": 2},  # one file for all; what is between two key frames may be of two episodes
    "jsonl": {".jsonl": 1},
    "pictures": {".jpeg": 1, "captions.jsonl": 1},
    "tar": {".tar": 1},
}
# A list that ends with a whole line may be a shorter list: without the rest of its entries.
LISTS = {"jsonl": "a.jsonl", "pictures": "captions.jsonl"}
# These describe the data: names and ranges may be others afterwards, values may not.
DESCRIPTIONS = (".json", "episodes.jsonl", "episodes_stats.jsonl")


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
        examples = [tfds_files.fill(features, rng, steps=5) | {"episode_id": number} for number in range(5)]
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
        if data_format == "hdf5":
            checksummed(folder / "lab" / "nested-v0" / "data" / "main_data.hdf5")
        return folder / "lab" / "nested-v0"

    return make


def checksummed(file: Path) -> None:
    """Writes an HDF5 file of Minari's once more, with checksums, which its own writer does not make.

    HDF5 has none for values of varying length, so texts and JPEG files are filled up to one length.
    """
    import h5py

    plain = file.with_suffix(".plain")
    file.rename(plain)
    with h5py.File(plain, "r") as old, h5py.File(file, "w", libver="latest") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                if values.dtype == object and isinstance(values[0], bytes):
                    values = values.astype("S")
                elif values.dtype == object:
                    size = max(map(len, values))
                    values = np.stack([np.pad(value, (0, size - len(value))) for value in values])
                new.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
            else:
                new.create_group(name).attrs.update(item.attrs)

        old.visititems(copy)
    plain.unlink()


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
        kind = "png" if k % 2 else "jpeg"
        (folder / f"{k}.{kind}").write_bytes(picture(k, (40, 50), kind))
        lines.append({"image": f"{k}.{kind}", "text": f"a thing {k}"})
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


Values = list[tuple[str, str, tuple[int, ...], Any]]  # leaf, dtype, shape, values; at the end the rewards
Row = tuple[Values, list[Any]]  # of an episode, with its metadata


def contents(path: Path) -> dict[str, Row]:
    """Episode's id -> what a store holds of it."""
    found, rows = Store(path), {}
    for episode in map(found.episode, range(len(found))):
        leaves = {**episode.observations, **{f"actions.{name}": values for name, values in episode.actions.items()}}
        values: Values = []
        for name, value in {**leaves, "rewards": episode.rewards, "end": np.array(episode.terminated)}.items():
            array = np.asarray(value, object if isinstance(value, list) else None)
            values.append((name, str(array.dtype), array.shape, value if isinstance(value, list) else array.tobytes()))
        # The identity of the source is not its data.
        about = sorted((entry for entry in episode.metadata.items() if entry[0] != "import"), key=str)
        rows[episode.metadata["episode_id"]] = values, about
    assert len(rows) == len(found)
    return rows


def read(kind: str, path: Path, dest: Path, bad: Any = "fail") -> dict[str, Row]:
    """Everything that the source holds, by way of a store."""
    if kind != "store":
        import_source(SourceReference(str(path)), dest, bad=bad, progress=False)
    return contents(path if kind == "store" else dest)


def outcome(kind: str, path: Path, dest: Path, bad: Any) -> tuple[dict[str, Row] | None, str]:
    """What was read, or None and why it was refused."""
    try:
        return read(kind, path, dest, bad), ""
    except GatoError as error:
        return None, str(error)


def check(kind: str, victim: Path, cut: bool, found: dict[str, Row], expected: dict[str, Row], dest: Path) -> None:
    """What was read of a source with a damaged file is right, as far as its format can tell."""
    shorter = cut and victim.name == LISTS.get(kind)
    skipped = kind != "store" and (dest / "skipped.jsonl").read_text()
    assert [name for name in expected if name in found] == list(found)
    assert len(found) == len(expected) or skipped or shorter
    if victim.name.endswith(DESCRIPTIONS):
        assert all(values == expected[name][0] for name, (values, _) in found.items())
        return
    if victim.name == LISTS.get(kind):  # without the end of a line the next ones have other numbers
        texts = [values for values, _ in expected.values()]
        altered = [name for name, (values, _) in found.items() if values not in texts]
    else:
        altered = [name for name, row in found.items() if row != expected[name]]
    allowed = max((count for end, count in UNPROTECTED.get(kind, {}).items() if victim.name.endswith(end)), default=0)
    assert len(altered) <= (0 if cut else allowed), altered
    for name in altered:
        assert [leaf[:3] for leaf in found[name][0]] == [leaf[:3] for leaf in expected[name][0]]
    if altered:
        assert not check_store(dest, progress=False).violated


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
        cut = case % 3 == 0
        if cut:
            del data[where:]
        else:
            data[where] ^= 1 << int(rng.integers(8))
        (copy / victim).write_bytes(data)
        path = copy if good.is_dir() else copy / good.name
        bad = "skip" if case % 4 == 3 and kind != "store" else "fail"
        what = f"case {case}: {victim}, {'cut to' if cut else 'a bit flipped at'} {where}, {bad}"
        found, message = outcome(kind, path, folder / "out", bad)
        if found is None:
            refused += 1
            assert len(message) > 20, what
            assert not (folder / "out").exists(), what
            shutil.rmtree(folder / ".out.import", ignore_errors=True)
            continue
        try:
            check(kind, victim, cut, found, expected, folder / "out")
        except AssertionError as error:
            raise AssertionError(what) from error
    assert refused > CASES // 10
