"""Text: files, folders of files, JSONL and parquet tables. A file, a line or a row is a document.

Files are ``.txt``, ``.md``, ``.rst``, ``.py`` or ``.html`` (also with ``.gz``), each one document, read in the order of
their paths. In ``.jsonl`` and ``.parquet`` the column ``text`` is taken (``options={"column": "content"}``). Empty
lines of a JSONL file are no documents; empty texts, and null, are documents that an import leaves out and counts.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import EmptyDocument, SourceError
from gato.data_pipelines.readers.lines import GZIP, Lines, check_packed
from gato.data_pipelines.readers.parquet import Column
from gato.tokenizers.errors import suggest
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

PLAIN = (".txt", ".md", ".rst", ".py", ".html")
JSONL, PARQUET = ".jsonl", ".parquet"
SUFFIXES = (*PLAIN, JSONL, PARQUET)


class TextReader:
    """See the module.

    Args:
      path: a file or a folder. leaves: must be empty. column: of tables.
    """

    jpeg = ()
    spec = EpisodeSpec({"text": LeafSpec("text")}, {}, "document")

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf], column: str = "text") -> None:
        if leaves:
            raise SourceError(f"{path}: text has only the leaf 'text'; leaves and values cannot be given")
        self._column, self.name = column, path.name.split(".")[0]
        self.metadata: dict[str, Any] = {}
        self._files = [path] if path.is_file() else sorted(filter(is_text, visible_files(path)))
        self.identity = identity_of(self._files, column)
        # Lines of a JSONL file, rows of a table; None: the file is one document; or why it cannot be opened.
        self._tables = [self._table(file) for file in self._files]
        self.unreadable = [table for table in self._tables if isinstance(table, SourceError)]
        counts = [1 if table is None or isinstance(table, SourceError) else len(table) for table in self._tables]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if not self._first[-1]:
            raise SourceError(f"{path}: no document in it ({', '.join(SUFFIXES)})")
        self._current = 0

    def __len__(self) -> int:
        return int(self._first[-1])

    def where(self, index: int, number: int = 0) -> str:
        file, row = self._place(index)
        table = self._tables[file]
        return table.where(row) if isinstance(table, (Lines, Column)) else str(self._files[file])

    def read(self, index: int) -> Iterator[Episode | EmptyDocument]:
        file, row = self._place(index)
        text = self._text(file, row)
        if text:
            yield document({"text": text}, f"{self._files[file].name}:{row}")
        elif text is not None:
            yield EmptyDocument(f"{self.where(index)}: an empty text")

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._first, index, side="right")) - 1
        return file, index - int(self._first[file])

    def _table(self, file: Path) -> Lines | Column | SourceError | None:
        kind = _suffix(file)
        try:
            return Lines(file) if kind == JSONL else Column(file, self._column) if kind == PARQUET else None
        except SourceError as error:  # one bad file among many can be left out
            return error

    def _text(self, file: int, row: int) -> str | None:
        """The text of a document; None for an empty line, which is none."""
        if file != self._current:  # they are read in order: one open file is enough
            last = self._tables[self._current]
            if isinstance(last, (Lines, Column)):
                last.close()
            self._current = file
        table = self._tables[file]
        if isinstance(table, SourceError):
            raise table
        if table is None:
            return decoded(read_bytes(self._files[file]), str(self._files[file]))
        where = table.where(row)
        if isinstance(table, Lines):
            line = table.line(row)
            if not line:
                return None
            value = field(json_line(line, where), self._column, where)
        else:
            value = table.value(row)
        if value is not None and not isinstance(value, str):
            raise SourceError(f"{where}: column {self._column!r} holds {type(value).__name__} instead of text")
        return value or ""


def document(leaves: Mapping[str, Any], name: str) -> Episode:
    """An `Episode` of kind document, one "timestep"."""
    values = {path: value[None] if isinstance(value, np.ndarray) else [value] for path, value in leaves.items()}
    return Episode(values, {}, np.zeros(1, np.float32), metadata={"episode_id": name})


def is_text(file: Path) -> bool:
    """Whether a file's name says that it is text, or a table of texts."""
    return _suffix(file) in SUFFIXES


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones."""
    for file in folder.rglob("*"):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts) and file.is_file():
            yield file


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(GZIP)).suffix.lower()


def read_bytes(file: Path) -> bytes:
    """A file, unpacked if it ends in .gz. Raises SourceError."""
    try:
        check_packed(file)
        data = file.read_bytes()
        return gzip.decompress(data) if file.name.endswith(GZIP) else data
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error


def decoded(data: bytes, where: str) -> str:
    """UTF-8 text. Raises SourceError that says where it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: text that is not UTF-8 ({error.reason} at byte {error.start})") from None


def lines(file: Path) -> list[bytes]:
    """The lines of a small file that are not empty."""
    return [line for line in read_bytes(file).split(b"\n") if line.strip()]


def json_line(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line of JSONL."""
    try:
        value = json.loads(decoded(line, where))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{where}: {type(value).__name__} instead of an object")
    return value


def field(row: Mapping[str, Any], name: str, where: str) -> Any:
    """A field of an object. Raises SourceError with a suggestion."""
    if name not in row:
        raise SourceError(f"{where}: no field {name!r}; {suggest(name, row)}")
    return row[name]
