"""A column of a parquet file, row by row, with one row group of it in memory; the pages' checksums are verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import suggest


class Column:
    """Opening reads the footer of the file.

    Raises:
      SourceError: the file cannot be read, or has no such column.
    """

    def __init__(self, file: Path, column: str) -> None:
        self._file, self._column = file, column
        opened = self._opened()
        names = opened.schema_arrow.names
        if column not in names:
            raise SourceError(f"{file}: no column {column!r}; {suggest(column, names)}")
        counts = [opened.metadata.row_group(number).num_rows for number in range(opened.metadata.num_row_groups)]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._group: tuple[int, list[Any]] | None = None
        self._table: Any = None

    def __len__(self) -> int:
        return int(self._first[-1])

    def where(self, row: int) -> str:
        """ "file: row n", counted from 0."""
        return f"{self._file}: row {row}"

    def value(self, row: int) -> Any:
        """One value as Python has it. Raises SourceError with the place."""
        number = int(np.searchsorted(self._first, row, side="right")) - 1
        if self._group is None or self._group[0] != number:
            self._table = self._table or self._opened()
            try:
                values = self._table.read_row_group(number, columns=[self._column]).column(0).to_pylist()
            except Exception as error:  # pyarrow raises many kinds
                raise SourceError(f"{self.where(row)}: cannot be read: {first_line(error)}") from error
            if len(values) != self._first[number + 1] - self._first[number]:
                raise SourceError(f"{self.where(row)}: {len(values)} values in row group {number}; copy it again")
            self._group = number, values
        return self._group[1][row - int(self._first[number])]

    def close(self) -> None:
        """Closes the file until the next read."""
        self._group = self._table = None

    def _opened(self) -> Any:
        parquet = require("pyarrow.parquet", "parquet files")
        try:
            return parquet.ParquetFile(self._file, page_checksum_verification=True)
        except Exception as error:
            raise SourceError(f"{self._file}: cannot be read: {first_line(error)}") from error
