"""The training store: one source's episodes (or documents) in a folder, for fast random reads of a few timesteps.

    store.json            version, name, spec, metadata, shards with their sizes, groups, fingerprint
    index.npz             lengths, returns, group of each episode, offsets into episodes.jsonl
    episodes.jsonl        per episode: terminated, truncated, metadata
    data-00000.array_record ...

A record holds 8 to 32 timesteps (`store_format`), compressed by ArrayRecord with zstd level 3. The folder appears under
its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gato.data_pipelines import store_format
from gato.data_pipelines.episode import Episode, EpisodeSpec, check_episode
from gato.data_pipelines.errors import StoreError

SHARD_BYTES = 256 << 20  # of uncompressed records; a new shard starts beyond it


class StoreWriter:
    """Writes a store; a context manager. Leaving it without an exception puts the folder in place, atomically.

    Args:
      path: the folder to create; must not exist. An interrupted predecessor's leavings are removed.
      name: the source's name in mixtures and metrics, e.g. ``metaworld/reach-v3``.
      spec: checked against every episode.
      metadata: JSON values about the source: suite, task, agent, ...

    Raises:
      StoreError: the path exists, the disk is full, or no episode was written.
      SpecError: an episode does not match the spec; nothing is left behind.
    """

    def __init__(self, path: str | os.PathLike[str], name: str, spec: EpisodeSpec, metadata: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.name, self.spec, self.metadata = name, spec, dict(metadata)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._digest = hashlib.blake2b(json.dumps(spec.to_json()).encode(), digest_size=16)
        self._lengths: list[int] = []
        self._returns: list[float] = []
        self._groups: list[int] = []
        self._group_names: dict[tuple[str, str], int] = {}
        self._lines: list[int] = [0]
        self._shards: list[dict[str, Any]] = []
        self._writer: Any = None
        self._shard_bytes = 0

    def __enter__(self) -> StoreWriter:
        if self.path.exists():
            raise StoreError(f"{self.path}: already exists; delete it or choose another folder")
        if self._partial.exists():
            shutil.rmtree(self._partial)
        try:
            self._partial.mkdir(parents=True)
            self._episodes = (self._partial / "episodes.jsonl").open("wb")
        except OSError as error:
            raise self._failure(error) from error
        return self

    def write(self, episode: Episode) -> None:
        """Appends one episode. Raises SpecError if it does not match the spec, StoreError if it cannot be written."""
        where = f"{self.name}: episode {len(self._lengths)}"
        check_episode(episode, self.spec, where)
        steps, size = len(episode), store_format.steps_per_record(self.spec)
        if self.spec.kind == "document" and steps != 1:
            raise StoreError(f"{where}: a document has one timestep, got {steps}")
        try:
            for start in range(0, steps, size):
                self._write_record(
                    store_format.encode_steps(episode, self.spec, start, min(start + size, steps), where)
                )
            line = {
                "terminated": bool(episode.terminated),
                "truncated": bool(episode.truncated),
                "metadata": episode.metadata,
            }
            data = json.dumps(line, default=_plain).encode() + b"\n"
            self._episodes.write(data)
        except StoreError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise self._failure(error) from error
        self._digest.update(data)
        self._lines.append(self._lines[-1] + len(data))
        self._lengths.append(steps)
        self._returns.append(float(np.sum(episode.rewards, dtype=np.float64)))
        known = {**self.metadata, **episode.metadata}
        group = (str(known.get("task", "")), str(known.get("agent", "")))
        self._groups.append(self._group_names.setdefault(group, len(self._group_names)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, RuntimeError, ValueError) as failure:
            raise self._failure(failure) from failure
        finally:
            # On a full disk closing fails again: that must neither hide the failure nor keep the folder.
            for file in (self._episodes, *([self._writer] if self._writer is not None else [])):
                with contextlib.suppress(OSError, RuntimeError):
                    file.close()
            shutil.rmtree(self._partial, ignore_errors=True)

    def _write_record(self, record: bytes) -> None:
        if self._writer is None:
            name = f"data-{len(self._shards):05d}.array_record"
            self._shards.append({"file": name, "records": 0, "bytes": 0})
            self._writer = ArrayRecordWriter(str(self._partial / name), "group_size:1,zstd:3")
            self._shard_bytes = 0
        self._writer.write(record)
        self._digest.update(record)
        self._shards[-1]["records"] += 1
        self._shard_bytes += len(record)
        if self._shard_bytes >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            shard = self._shards[-1]
            shard["bytes"] = (self._partial / shard["file"]).stat().st_size

    def _finish(self) -> None:
        if not self._lengths:
            raise StoreError(f"{self.path}: no episode was written")
        self._close_shard()
        self._episodes.close()
        np.savez(
            self._partial / "index.npz",
            lengths=np.array(self._lengths, np.int32),
            returns=np.array(self._returns, np.float64),
            groups=np.array(self._groups, np.int32),
            lines=np.array(self._lines, np.int64),
        )
        header = {
            "version": store_format.VERSION,
            "name": self.name,
            "spec": self.spec.to_json(),
            "metadata": self.metadata,
            "episodes": len(self._lengths),
            "groups": [list(group) for group in self._group_names],
            "shards": self._shards,
            "fingerprint": self._digest.hexdigest(),
        }
        (self._partial / "store.json").write_text(json.dumps(header, indent=1, default=_plain))
        os.rename(self._partial, self.path)

    def _failure(self, error: Exception) -> Exception:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return StoreError(
                f"{self.path}: the disk is full after {len(self._lengths)} episodes; free some space and run again"
            )
        if isinstance(error, OSError):
            return StoreError(f"{self.path}: cannot be written: {error.strerror or error}")
        return StoreError(f"{self.path}: cannot be written: {_first_line(error)}")


class Store:
    """Opens a store; reads are thread-safe.

    Attributes:
      name, spec, metadata: as written.
      lengths: int32 [N] timesteps of each episode. returns: float64 [N] sum of rewards.
      groups: int32 [N] index into `group_names`, the distinct (task, agent) pairs: prompts stay within a group.
      fingerprint: hash of the spec and of every byte of data.

    Raises:
      StoreError: no store, another version, a missing or damaged file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            header = json.loads((self.path / "store.json").read_text())
        except FileNotFoundError:
            raise StoreError(f"{self.path}: not a store (no store.json); collect or import the data first") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}/store.json: cannot be read ({error}); collect or import it again") from error
        if header.get("version") != store_format.VERSION:
            raise StoreError(
                f"{self.path}: store version {header.get('version')}, this program reads version "
                f"{store_format.VERSION}; collect or import it again"
            )
        self.name: str = header["name"]
        self.spec = EpisodeSpec.from_json(header["spec"])
        self.metadata: dict[str, Any] = header["metadata"]
        self.group_names = [(task, agent) for task, agent in header["groups"]]
        self.fingerprint: str = header["fingerprint"]
        try:
            with np.load(self.path / "index.npz") as index:
                self.lengths: np.ndarray = index["lengths"]
                self.returns: np.ndarray = index["returns"]
                self.groups: np.ndarray = index["groups"]
                self._lines: np.ndarray = index["lines"]
        except Exception as error:  # zipfile and numpy raise many kinds for a damaged archive
            raise StoreError(f"{self.path}/index.npz: cannot be read ({error}); collect or import it again") from error
        self._steps = store_format.steps_per_record(self.spec)
        self._first = np.concatenate([[0], np.cumsum(-(-self.lengths // self._steps), dtype=np.int64)])
        self._shards = header["shards"]
        self._shard_first = np.concatenate([[0], np.cumsum([shard["records"] for shard in self._shards])]).astype(
            np.int64
        )
        if self._shard_first[-1] != self._first[-1] or len(self.lengths) != header["episodes"]:
            raise StoreError(f"{self.path}: index and shards disagree about the episodes; collect or import it again")
        for shard in self._shards:
            file = self.path / shard["file"]
            size = file.stat().st_size if file.exists() else None
            if size != shard["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
                raise StoreError(f"{file}: {found}; collect or import it again")
        try:
            with (self.path / "episodes.jsonl").open("rb") as file:
                self._about_episodes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path}/episodes.jsonl: cannot be read ({error}); collect or import it again"
            ) from error
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

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
            steps = min(self._steps, length - number * self._steps)
            parts.append(store_format.decode_steps(record, self.spec, steps, f"{self.path}: episode {index}"))
        episode = store_format.join(parts, start - first * self._steps, stop - first * self._steps)
        about = self._about(index)
        episode.terminated, episode.truncated = about["terminated"], about["truncated"]
        episode.metadata = {**self.metadata, **about["metadata"]}
        return episode

    def _about(self, index: int) -> dict[str, Any]:
        begin, end = int(self._lines[index]), int(self._lines[index + 1])
        try:
            return json.loads(self._about_episodes[begin:end])
        except ValueError as error:
            raise StoreError(
                f"{self.path}/episodes.jsonl: episode {index}: {error}; collect or import it again"
            ) from error

    def _read(self, start: int, stop: int) -> list[bytes]:
        """Records ``start..stop-1`` of the store, across shards. Checks what ArrayRecord does not ."""
        records: list[bytes] = []
        while start < stop:
            shard = int(np.searchsorted(self._shard_first, start, side="right")) - 1
            base, end = int(self._shard_first[shard]), min(stop, int(self._shard_first[shard + 1]))
            file = self.path / self._shards[shard]["file"]
            try:
                records += self._reader(shard, file).read(start - base, end - base)
            except (RuntimeError, ValueError, IndexError, OSError) as error:
                raise StoreError(
                    f"{file}: record {start - base}: {_first_line(error)}; collect or import it again"
                ) from error
            start = end
        if not all(records):
            raise StoreError(f"{file}: an empty record, the file is damaged; collect or import it again")
        return records

    def _reader(self, shard: int, file: Path) -> Any:
        with self._lock:
            if shard not in self._readers:
                options = "readahead_buffer_size:0,max_parallelism:0"
                reader = ArrayRecordReader(str(file), options, file_reader_buffer_size=1 << 15)
                count = reader.num_records() if reader.ok() else 0
                if count != self._shards[shard]["records"]:
                    expected = self._shards[shard]["records"]
                    raise StoreError(f"{file}: {count} records instead of {expected}; collect or import it again")
                self._readers[shard] = reader
            return self._readers[shard]


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays in metadata as JSON values."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise StoreError(f"metadata value {value!r} is not JSON")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
