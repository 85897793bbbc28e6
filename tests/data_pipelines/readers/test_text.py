"""Text files, JSONL and parquet."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.lines import Lines
from gato.data_pipelines.text_corpus import texts_of


def texts(store):
    return [store.episode(k).observations["text"][0] for k in range(len(store))]


def test_a_folder_of_files(tmp_path, imported):
    folder = tmp_path / "book"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("first")
    (folder / "b" / "c.md").write_text("zweites — ü")
    (folder / "b" / "d.txt.gz").write_bytes(gzip.compress(b"third"))
    (folder / "empty.txt").write_text("")
    store = imported(folder)
    assert texts(store) == ["first", "zweites — ü", "third"]
    assert store.metadata["import"]["empty"] == 1
    assert store.spec.kind == "document"
    assert store.name == "book"
    (folder / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(SourceError, match=r"book: 2 \.txt, 1 \.gz, 1 \.md, 1 \.png is no format"):
        imported(folder, dest="other")
    assert texts(imported(folder, dest="other", format="text")) == texts(store)


def test_jsonl_and_parquet(tmp_path, imported):
    rows = [{"text": f"line {k}\nof two", "url": "x"} for k in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert texts(imported(tmp_path / "a.jsonl")) == [row["text"] for row in rows]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=7)
    assert texts(imported(tmp_path / "b.parquet", dest="p")) == [row["text"] for row in rows]


def test_empty_documents_are_left_out_and_counted(tmp_path, imported):
    """Whatever is said about bad data: they are not bad. An empty line is no document."""
    rows = [{"text": "a"}, {"text": None}, {"text": ""}, {"text": "b"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n\n")
    store = imported(tmp_path / "a.jsonl")
    assert texts(store) == ["a", "b"]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (2, 0)
    assert list(texts_of([tmp_path / "a.jsonl"])) == ["a", "b"]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    store = imported(tmp_path / "b.parquet", dest="p", bad="skip")
    assert texts(store) == ["a", "b"]
    assert (store.metadata["import"]["empty"], store.metadata["import"]["skipped"]) == (2, 0)


def test_mistakes_name_the_place(tmp_path, imported):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "x"}\n')
    with pytest.raises(SourceError, match=r"a\.jsonl: line 2: no field 'text'; did you mean 'txt'"):
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
    with pytest.raises(SourceError, match="nothing: an empty folder is no format"):
        imported(tmp_path / "nothing", dest="e")


@pytest.mark.parametrize("packed", [False, True])
def test_lines_by_number(tmp_path, packed):
    """In any order, without the file in memory; empty lines count, as they do in an editor."""
    rng = np.random.default_rng(0)
    expected = [b"" if k % 7 == 3 else f"{k}-{'x' * int(rng.integers(300))}".encode() for k in range(1500)]
    data = b"\n".join(expected) + b"\n"
    file = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    for ending in (data, data[:-1], b"\n" * 512):
        file.write_bytes(gzip.compress(ending) if packed else ending)
        lines, wanted = Lines(file), ending.split(b"\n")[: 1500 if ending[:1] != b"\n" else 512]
        assert len(lines) == len(wanted)
        for number in [*range(300), *rng.permutation(len(wanted))[:60].tolist(), len(wanted) - 1, 0, 0]:
            assert lines.line(number) == wanted[number]
    assert lines.where(4) == f"{file}: line 5"


def test_packed_jsonl_among_other_files(tmp_path, imported):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "ab":
        rows = "".join(json.dumps({"text": f"{name}{k}"}) + "\n\n" for k in range(40))
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    assert texts(imported(folder, processes=2)) == [f"{name}{k}" for name in "ab" for k in range(40)]


def test_a_damaged_row_group_costs_no_other(tmp_path, imported):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    table = pyarrow.Table.from_pylist([{"text": f"row {k}"} for k in range(30)])
    parquet.write_table(table, file, row_group_size=10, write_page_checksum=True, compression="none")
    data = bytearray(file.read_bytes())
    data[data.index(b"row 15")] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet: row 1\d: cannot be read"):
        imported(file)
    store = imported(file, bad="skip")
    assert texts(store) == [f"row {k}" for k in range(30) if k // 10 != 1]
    assert store.metadata["import"]["skipped"] == 10
