"""The training store: one source's episodes (or documents) in a folder, for fast random reads of a few timesteps.

    store.json            version, name, spec, metadata, groups, shards with sizes and digests, the digest of the index,
                          fingerprint, its own checksum
    index.npz             lengths, returns, group of each episode, offsets into episodes.jsonl, a checksum of each line
    episodes.jsonl        per episode: terminated, truncated, metadata
    data-00000.array_record ...     (of an import: part-00000/data-00000.array_record ...)

A record holds 8 to 32 timesteps (`store_format`), compressed by ArrayRecord with zstd level 3. Every byte is behind a
checksum: the records' are ArrayRecord's. And every file is tied to its store: the last record of a shard is the digest
of the records before it, which ``store.json`` states, too, so that another shard is noticed when it is opened without
reading it; ``store.json`` states the index's digest, and the index has the lines' checksums. Stores are made by
`store_writer`.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from gato.data_pipelines import store_format
from gato.data_pipelines.episode import Episode, EpisodeSpec
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.open_files import OpenFiles

# Arrays of index.npz.
INDEX = {"lengths": np.int32, "returns": np.float64, "groups": np.int32, "lines": np.int64, "checks": np.uint32}
AGAIN = "collect or import it again"


def checksum(header: Mapping[str, Any]) -> str:
    """Of the JSON values of ``store.json``, without the checksum itself."""
    return hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=8).hexdigest()


def content_digest(data: bytes | memoryview = b"") -> Any:
    """A hash, to be updated, of what tells one file of data from another: 16 bytes."""
    return hashlib.blake2b(data, digest_size=16)


class Store:
    """Opens a store; reads are thread-safe.

    Attributes:
      name, spec, metadata: as written.
      lengths: int32 [N] timesteps of each episode. returns: float64 [N] sum of rewards.
      groups: int32 [N] index into `group_names`, the distinct (task, agent) pairs: prompts stay within a group.
      jpeg: paths of the image leaves that are kept as JPEG files.
      shards: files with their numbers of records and bytes, and their digests.
      fingerprint: hash of the spec and of every byte of data.

    Raises:
      StoreError: no store, another version, a missing or damaged file, an index of another store. A shard of another
        store is noticed when it is first read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            header = json.loads((self.path / "store.json").read_text())
        except FileNotFoundError:
            raise StoreError(f"{self.path}: not a store (no store.json); collect or import the data first") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}/store.json: cannot be read ({error}); {AGAIN}") from error
        if not isinstance(header, dict):
            raise StoreError(f"{self.path}/store.json: holds no description of a store; {AGAIN}")
        if header.get("version") != store_format.VERSION:
            raise StoreError(
                f"{self.path}: store version {header.get('version')}, this program reads version "
                f"{store_format.VERSION}; {AGAIN}"
            )
        if header.pop("checksum", None) != checksum(header):
            raise StoreError(f"{self.path}/store.json: was changed or damaged (its checksum differs); {AGAIN}")
        self.name: str = header["name"]
        self.spec = EpisodeSpec.from_json(header["spec"])
        self.metadata: dict[str, Any] = header["metadata"]
        self.jpeg: list[str] = header["jpeg"]
        self.shards: list[dict[str, Any]] = header["shards"]
        self.group_names = [(task, agent) for task, agent in header["groups"]]
        self.fingerprint: str = header["fingerprint"]
        self._index_digest: str = header["index"]
        index = self.index()
        self.lengths, self.returns, self.groups = index["lengths"], index["returns"], index["groups"]
        self._lines, self._checks = index["lines"], index["checks"]
        self._steps = store_format.steps_per_record(self.spec)
        self._first = np.concatenate([[0], np.cumsum(-(-self.lengths // self._steps), dtype=np.int64)])
        self._shard_first = np.concatenate([[0], np.cumsum([shard["records"] for shard in self.shards])]).astype(
            np.int64
        )
        if self._shard_first[-1] != self._first[-1] or len(self.lengths) != header["episodes"]:
            raise StoreError(f"{self.path}: index and shards disagree about the episodes; {AGAIN}")
        for shard in self.shards:
            file = self.path / shard["file"]
            size = file.stat().st_size if file.exists() else None
            if size != shard["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
                raise StoreError(f"{file}: {found}; {AGAIN}")
        self._open = OpenFiles()
        if len(self.lengths):  # a part may be empty, and an empty file cannot be mapped
            self._episodes_file()

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int, start: int = 0, stop: int | None = None) -> Episode:
        """Timesteps ``start..stop-1`` of one episode (all by default), with its metadata. Arrays may be read-only."""
        length = int(self.lengths[index])
        stop = length if stop is None else stop
        if not 0 <= start < stop <= length:
            raise IndexError(f"{self.name}: timesteps {start}..{stop} of episode {index}, which has {length}")
        first, last = start // self._steps, (stop - 1) // self._steps
        records = self._read(int(self._first[index]) + first, int(self._first[index]) + last + 1)
        parts = []
        for number, record in enumerate(records, first):
            before = number * self._steps
            steps = min(self._steps, length - before)
            begin, end = max(start - before, 0), min(stop - before, steps)
            where = f"{self.path}: episode {index}"
            parts.append(store_format.decode_steps(record, self.spec, steps, where, self.jpeg, begin, end))
        episode = store_format.join(parts)
        about = self._about(index)
        episode.terminated, episode.truncated = about["terminated"], about["truncated"]
        episode.metadata = {**self.metadata, **about["metadata"]}
        return episode

    def file_of(self, index: int) -> Path:
        """The file in which an episode begins."""
        shard = int(np.searchsorted(self._shard_first, self._first[index], side="right")) - 1
        return self.path / self.shards[shard]["file"]

    def index(self) -> dict[str, np.ndarray]:
        """The arrays of ``index.npz`` (`INDEX`)."""
        file = self.path / "index.npz"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error}); {AGAIN}") from error
        found = content_digest(data).hexdigest()
        if found != self._index_digest:
            raise StoreError(f"{file}: {_other(found, self._index_digest)}")
        with np.load(io.BytesIO(data)) as index:
            return {name: index[name] for name in INDEX}

    def _about(self, index: int) -> dict[str, Any]:
        begin, end = int(self._lines[index]), int(self._lines[index + 1])
        line = self._episodes_file()[begin:end]
        if zlib.crc32(line) != int(self._checks[index]):
            raise StoreError(f"{self.path}/episodes.jsonl: episode {index}: damaged (its checksum differs); {AGAIN}")
        return json.loads(line)

    def _read(self, start: int, stop: int) -> list[bytes]:
        """Records ``start..stop-1`` of the store, across shards. Checks what ArrayRecord does not."""
        records: list[bytes] = []
        while start < stop:
            shard = int(np.searchsorted(self._shard_first, start, side="right")) - 1
            base, end = int(self._shard_first[shard]), min(stop, int(self._shard_first[shard + 1]))
            file = self.path / self.shards[shard]["file"]
            try:
                records += self._reader(shard).read(start - base, end - base)
            except (RuntimeError, ValueError, IndexError, OSError) as error:
                raise StoreError(f"{file}: record {start - base}: {first_line(error)}; {AGAIN}") from error
            start = end
        if not all(records):
            raise StoreError(f"{file}: an empty record, the file is damaged; {AGAIN}")
        return records

    def _episodes_file(self) -> mmap.mmap:
        def open_file() -> mmap.mmap:
            try:
                with (self.path / "episodes.jsonl").open("rb") as file:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise StoreError(f"{self.path}/episodes.jsonl: cannot be read ({error}); {AGAIN}") from error

        return self._open.get("episodes.jsonl", open_file)

    def _reader(self, shard: int) -> Any:
        def open_file() -> Any:
            about = self.shards[shard]
            file = self.path / about["file"]
            options = "readahead_buffer_size:0,max_parallelism:0"
            reader = ArrayRecordReader(str(file), options, file_reader_buffer_size=1 << 15)
            count = reader.num_records() - 1 if reader.ok() else 0  # the last one is the digest
            if count != about["records"]:
                raise StoreError(f"{file}: {count} records instead of {about['records']}; {AGAIN}")
            (digest,) = reader.read(count, count + 1)
            if digest.hex() != about["digest"]:
                raise StoreError(f"{file}: {_other(digest.hex(), about['digest'])}")
            return reader

        return self._open.get(self.shards[shard]["file"], open_file)


def _other(found: str, expected: str) -> str:
    return (
        f"damaged, or of another store: its digest is {found}, store.json says {expected}; put the right file back, or "
        f"{AGAIN}"
    )


def first_line(error: Exception) -> str:
    """Of an error's message, for one-line messages of ours; of a long one both ends: a path, and then the reason."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 240 else f"{line[:120]} ... {line[-120:]}"
