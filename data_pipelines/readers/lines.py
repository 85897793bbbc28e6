"""The lines of a file by number, with a part of the file in memory: JSONL files may be larger than that."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError

GZIP = ".gz"
_STRIDE = 256  # lines; the offset of every so-many-th is kept
_CHUNK = 1 << 20
_NEWLINE = 10


def check_packed(file: Path) -> None:
    """Raises EOFError if a .gz file has no byte, as a killed copy leaves it: to gzip it is a file of nothing."""
    if file.name.endswith(GZIP) and not file.stat().st_size:
        raise EOFError("no byte in it; copy it again")


class Lines:
    """Opening reads the file once, to count. Reading in order goes straight on; anything else seeks.

    Args:
      file: unpacked on the way if it ends in .gz (where going back means to begin anew).

    Raises:
      SourceError: the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._starts, self._count = [0], 0  # byte offsets of lines 0, 256, 512, ...
        self._stream: Any = None
        self._last = -1, b""  # a line is often asked for twice
        offset, last = 0, _NEWLINE
        try:
            check_packed(file)
            with self._opened() as stream:
                while chunk := stream.read(_CHUNK):
                    begins = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE) + offset + 1
                    numbers = self._count + 1 + np.arange(len(begins))
                    self._starts += begins[numbers % _STRIDE == 0].tolist()
                    self._count += len(begins)
                    offset, last = offset + len(chunk), chunk[-1]
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{file}: cannot be read: {error}") from error
        self._count += last != _NEWLINE

    def __len__(self) -> int:
        """Lines, empty ones among them."""
        return self._count

    def where(self, number: int) -> str:
        """ "file: line n", counted from 1 as editors do."""
        return f"{self._file}: line {number + 1}"

    def line(self, number: int) -> bytes:
        """One line without white space around it. Raises SourceError with the place."""
        if number == self._last[0]:
            return self._last[1]
        try:
            if self._stream is None or number != self._last[0] + 1:
                self.close()
                self._stream = self._opened()
                self._stream.seek(self._starts[number // _STRIDE])
                for _ in range(number % _STRIDE):
                    self._stream.readline()
            line = self._stream.readline()
        except (OSError, EOFError, zlib.error) as error:
            self.close()
            raise SourceError(f"{self.where(number)}: cannot be read: {error}") from error
        self._last = number, line.strip()
        return self._last[1]

    def close(self) -> None:
        """Closes the file until the next read."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _opened(self) -> Any:
        return gzip.open(self._file, "rb") if self._file.name.endswith(GZIP) else self._file.open("rb")
