"""Text files, JSONL and parquet."""

from __future__ import annotations

import gzip
import json

import pytest

from gato.data_pipelines.errors import SourceError


def texts(store):
    return [store.episode(k).observations["text"][0] for k in range(len(store))]


def test_a_folder_of_files(tmp_path, imported):
    folder = tmp_path / "book"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "b" / "c.md").write_text("zweites — ü")
    (folder / "b" / "d.txt.gz").write_bytes(gzip.compress(b"third"))
    (folder / "empty.txt").write_text("")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    store = imported(folder)
    assert texts(store) == ["first", "zweites — ü", "third"]
    assert store.spec.kind == "document"
    assert store.name == "book"


def test_jsonl_and_parquet(tmp_path, imported):
    rows = [{"text": f"line {k}\nof two", "url": "x"} for k in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert texts(imported(tmp_path / "a.jsonl")) == [row["text"] for row in rows]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=7)
    assert texts(imported(tmp_path / "b.parquet", dest="p")) == [row["text"] for row in rows]


def test_mistakes_name_the_place(tmp_path, imported):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "x"}\n')
    with pytest.raises(SourceError, match=r"a\.jsonl: row 1: no field 'text'; did you mean 'txt'"):
        imported(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n{broken\n')
    store = imported(tmp_path / "b.jsonl", dest="rest", bad="skip")
    assert texts(store) == ["fine"]
    assert store.metadata["import"]["skipped"] == 2
    (tmp_path / "c.txt").write_bytes(b"caf\xe9 !")
    with pytest.raises(SourceError, match=r"c\.txt: text that is not UTF-8 \(.* at byte 3\)"):
        imported(tmp_path / "c.txt", dest="c")
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"third" * 100)[:-9])
    with pytest.raises(SourceError, match=r"d\.txt\.gz: cannot be read"):
        imported(tmp_path / "d.txt.gz", dest="d")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SourceError, match="no document"):
        imported(tmp_path / "nothing", dest="e")
