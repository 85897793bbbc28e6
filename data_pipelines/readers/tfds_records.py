"""Records of a prepared TFDS directory by number (TFRecord or ArrayRecord), without TensorFlow, every CRC checked."""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import suggest

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
HEADER = struct.Struct("<QI")  # length, its CRC
_MASK = 0xA282EAD8


class Records:
    """The records of one split.

    Args:
      folder: holds ``dataset_info.json`` and the shards.
      split: its name; "": the only one, else ``train``.

    Attributes:
      name: "dataset/config". files: the shards. unreadable: errors of those that are missing.
    """

    def __init__(self, folder: Path, split: str = "") -> None:
        self._folder = folder
        info = read_json(folder / "dataset_info.json")
        splits = {entry["name"]: entry for entry in info.get("splits", [])}
        split = split or (next(iter(splits)) if len(splits) == 1 else "train")
        if split not in splits:
            raise SourceError(f"{folder}: no split {split!r}; {suggest(split, splits) if splits else 'it has none'}")
        self.name = "/".join(filter(None, (info["name"], info.get("configName"))))
        self._lengths = [int(length) for length in splits[split].get("shardLengths", [])]
        if not sum(self._lengths):
            raise SourceError(f"{folder}: split {split!r} is empty")
        self._kind = info.get("fileFormat") or "tfrecord"
        if self._kind not in ("tfrecord", "array_record"):
            raise SourceError(f"{folder}: file format {self._kind!r}; tfrecord and array_record can be read")
        template = (splits[split].get("filepathTemplate") or _TEMPLATE).rpartition("/")[2]
        count = len(self._lengths)
        self.files = []
        self._readers: dict[int, Any] = {}
        self._failed: dict[int, str] = {}  # a bad shard is not opened again for each of its records
        for number in range(count):
            words = {"DATASET": info["name"], "SPLIT": split, "FILEFORMAT": self._kind}
            words |= {"SHARD_X_OF_Y": f"{number:05d}-of-{count:05d}", "SHARD_INDEX": f"{number:05d}"}
            file = folder / template.format(**words, NUM_SHARDS=f"{count:05d}")
            if not file.exists():
                self._failed[number] = f"{file}: missing; the split has {count} shards, copy or prepare it again"
            self.files.append(file)
        self.unreadable = [SourceError(why) for why in self._failed.values()]
        self._first = np.concatenate([[0], np.cumsum(self._lengths)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def where(self, index: int) -> str:
        """ "file: record n" of a record, for messages."""
        shard = self._shard(index)
        return f"{self.files[shard]}: record {index - int(self._first[shard])}"

    def read(self, index: int) -> bytes:
        """One record. Raises SourceError if its file is damaged."""
        shard = self._shard(index)
        if shard in self._failed:
            raise SourceError(self._failed[shard])
        if shard not in self._readers:
            self._readers.clear()  # records are read in order: one open file is enough
            make = TfRecordFile if self._kind == "tfrecord" else ArrayRecordFile
            try:
                self._readers[shard] = make(self.files[shard], self._lengths[shard])
            except SourceError as error:
                self._failed[shard] = str(error)
                raise
        return self._readers[shard].read(index - int(self._first[shard]))

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1


class TfRecordFile:
    """A TFRecord file: for each record length, CRC of the length, data, CRC of the data. Opening reads the lengths."""

    def __init__(self, file: Path, records: int | None = None) -> None:
        self._file = file
        try:
            with file.open("rb") as opened:
                size = file.stat().st_size
                self._data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
        self._spans: list[tuple[int, int]] = []
        offset = 0
        while offset < len(self._data):
            header = self._data[offset : offset + HEADER.size]
            if len(header) < HEADER.size:
                raise SourceError(f"{file}: ends in the middle of record {len(self._spans)}; copy it again")
            length, check = HEADER.unpack(header)
            if check != masked_crc(header[:8]):
                raise SourceError(f"{file}: record {len(self._spans)}: damaged (CRC of its length); copy it again")
            begin = offset + HEADER.size
            offset = begin + length + 4
            if offset > len(self._data):
                raise SourceError(f"{file}: ends in the middle of record {len(self._spans)}; copy it again")
            self._spans.append((begin, begin + length))
        if records is not None and len(self._spans) != records:
            raise SourceError(f"{file}: {len(self._spans)} records instead of {records}; copy it again")

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, index: int) -> bytes:
        begin, end = self._spans[index]
        data = self._data[begin:end]
        if struct.unpack("<I", self._data[end : end + 4])[0] != masked_crc(data):
            raise SourceError(f"{self._file}: record {index}: damaged (its CRC differs); copy it again")
        return data


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord files have it."""
    crc = require("google_crc32c", "TFRecord files").value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


class ArrayRecordFile:
    """An ArrayRecord file; what its library lets pass is checked."""

    def __init__(self, file: Path, records: int) -> None:
        module = require("array_record.python.array_record_module", "ArrayRecord files")
        self._file = file
        try:
            self._reader = module.ArrayRecordReader(str(file), "readahead_buffer_size:0,max_parallelism:0")
            count = self._reader.num_records() if self._reader.ok() else 0
        except (RuntimeError, ValueError, OSError) as error:
            raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error
        if count != records:
            raise SourceError(f"{file}: {count} records instead of {records}; copy it again")

    def read(self, index: int) -> bytes:
        try:
            (data,) = self._reader.read(index, index + 1)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise SourceError(f"{self._file}: record {index}: {first_line(error)}; copy it again") from error
        if not data:
            raise SourceError(f"{self._file}: record {index}: empty, the file is damaged; copy it again")
        return data


def read_json(file: Path) -> Any:
    """A JSON file. Raises SourceError that names it."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise SourceError(f"{file}: missing") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error
