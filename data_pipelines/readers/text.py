"""Text: files, folders of files, JSONL and parquet tables. A file, a line or a row is a document.

Files are ``.txt``, ``.md``, ``.rst``, ``.py`` or ``.html`` (also with ``.gz``), each one document, read in the order of
their paths. In ``.jsonl`` and ``.parquet`` the column ``text`` is taken (``options={"column": "content"}``).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import suggest
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

PLAIN = (".txt", ".md", ".rst", ".py", ".html")
TABLES = (".jsonl", ".parquet")
_GZIP = ".gz"


class TextReader:
    """See the module.

    Args:
      path: a file or a folder. leaves: must be empty. column: of tables.
    """

    jpeg = ()
    spec = EpisodeSpec({"text": LeafSpec("text")}, {}, "document")

    def __init__(self, path: Path, leaves: Mapping[str, LeafSpec | None], column: str = "text") -> None:
        if leaves:
            raise SourceError(f"{path}: text has only the leaf 'text'; leaves and values cannot be given")
        self._column, self.name = column, path.name.split(".")[0]
        self.metadata: dict[str, Any] = {}
        self._files = files(path, (*PLAIN, *TABLES))
        self.identity = identity_of(self._files, column)
        counts = [self._count(file) for file in self._files]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        if not self._first[-1]:
            raise SourceError(f"{path}: no document in it ({', '.join((*PLAIN, *TABLES))})")
        self._open: tuple[Path, list[Any]] | None = None

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, index: int) -> Iterator[Episode]:
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        file, row = self._files[number], index - int(self._first[number])
        where = f"{file}: row {row}" if _suffix(file) in TABLES else str(file)
        text = self._row(file, row, where)
        if text:
            yield document({"text": text}, f"{file.name}:{row}")

    def _count(self, file: Path) -> int:
        if _suffix(file) == ".jsonl":
            return len(lines(file))
        return table_rows(file) if _suffix(file) == ".parquet" else 1

    def _row(self, file: Path, row: int, where: str) -> str:
        if _suffix(file) not in TABLES:
            return decoded(read_bytes(file), where)
        if self._open is None or self._open[0] != file:
            rows = lines(file) if _suffix(file) == ".jsonl" else table_column(file, self._column)
            self._open = file, rows
        value = self._open[1][row]
        if _suffix(file) == ".jsonl":
            value = field(json_line(value, where), self._column, where)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise SourceError(f"{where}: column {self._column!r} holds {type(value).__name__} instead of text")
        return value


def document(leaves: Mapping[str, Any], name: str) -> Episode:
    """An `Episode` of kind document, one "timestep"."""
    values = {path: value[None] if isinstance(value, np.ndarray) else [value] for path, value in leaves.items()}
    return Episode(values, {}, np.zeros(1, np.float32), metadata={"episode_id": name})


def files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or all files below a folder with these suffixes, in the order of their paths."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in suffixes)


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(_GZIP)).suffix.lower()


def read_bytes(file: Path) -> bytes:
    """A file, unpacked if it ends in .gz. Raises SourceError."""
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if file.name.endswith(_GZIP) else data
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error


def decoded(data: bytes, where: str) -> str:
    """UTF-8 text. Raises SourceError that says where it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: text that is not UTF-8 ({error.reason} at byte {error.start})") from None


def lines(file: Path) -> list[bytes]:
    """The lines of a file that are not empty."""
    return [line for line in read_bytes(file).split(b"\n") if line.strip()]


def json_line(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line of JSONL."""
    try:
        value = json.loads(decoded(line, where))
    except ValueError as error:
        raise SourceError(f"{where}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{where}: {type(value).__name__} instead of an object")
    return value


def field(row: Mapping[str, Any], name: str, where: str) -> Any:
    """A field of an object. Raises SourceError with a suggestion."""
    if name not in row:
        raise SourceError(f"{where}: no field {name!r}; {suggest(name, row)}")
    return row[name]


def table_rows(file: Path) -> int:
    """Rows of a parquet file."""
    parquet = require("pyarrow.parquet", "parquet files")
    try:
        return parquet.ParquetFile(file).metadata.num_rows
    except Exception as error:  # pyarrow raises many kinds
        raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error


def table_column(file: Path, column: str) -> list[Any]:
    """One column of a parquet file as Python values."""
    parquet = require("pyarrow.parquet", "parquet files")
    try:
        opened = parquet.ParquetFile(file, page_checksum_verification=True)
        names = opened.schema_arrow.names
        if column not in names:
            raise SourceError(f"{file}: no column {column!r}; {suggest(column, names)}")
        return opened.read(columns=[column]).column(0).to_pylist()
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error
