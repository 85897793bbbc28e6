"""Writes training stores: episode by episode, or as the concatenation of parts that several processes wrote.

The folder appears under its name only when it is complete; see `store` for what it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from gato.data_pipelines import jpeg, store_format
from gato.data_pipelines.episode import Episode, EpisodeSpec, check_episode
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.store import INDEX, Store, checksum, content_digest, first_line

SHARD_BYTES = 256 << 20  # of uncompressed records; a new shard starts beyond it


class StoreWriter:
    """Writes a store; a context manager. Leaving it without an exception puts the folder in place, atomically.

    Args:
      path: the folder to create; must not exist. An interrupted predecessor's leavings are removed.
      name: the source's name in mixtures and metrics, e.g. ``metaworld/reach-v3``.
      spec: checked against every episode.
      metadata: JSON values about the source: suite, task, agent, ...
      jpeg: image leaves that are kept as JPEG files. Files are kept as they are, arrays are encoded.
      part: whether this is a part of a store to be (`merge_parts`): it may turn out empty, its episodes were checked
        before, and several processes may write the same one at once (of which the first to end counts).

    Raises:
      StoreError: the path exists, the disk is full, or no episode was written.
      SpecError: an episode does not match the spec; nothing is left behind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        spec: EpisodeSpec,
        metadata: Mapping[str, Any],
        *,
        jpeg: Collection[str] = (),
        part: bool = False,
    ) -> None:
        self.path, self._jpeg, self._is_part = Path(path), sorted(jpeg), part
        self.name, self.spec, self.metadata = name, spec, dict(metadata)
        unique = f".{uuid.uuid4().hex[:12]}" if part else ""
        self._partial = self.path.with_name(f".{self.path.name}{unique}.partial")
        self._digest = content_digest(json.dumps(spec.to_json()).encode())
        self._shard_digest = content_digest()
        self._lengths: list[int] = []
        self._returns: list[float] = []
        self._groups: list[int] = []
        self._group_names: dict[tuple[str, str], int] = {}
        self._lines: list[int] = [0]
        self._checks: list[int] = []
        self._shards: list[dict[str, Any]] = []
        self._writer: Any = None
        self._shard_bytes = 0

    def __enter__(self) -> StoreWriter:
        if self.path.exists() and not self._is_part:
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
        if not self._is_part:
            check_episode(episode, self.spec, where)
        episode = self._encoded(episode)
        steps, size = len(episode), store_format.steps_per_record(self.spec)
        if self.spec.kind == "document" and steps != 1:
            raise StoreError(f"{where}: a document has one timestep, got {steps}")
        try:
            for start in range(0, steps, size):
                self._write_record(
                    store_format.encode_steps(episode, self.spec, start, min(start + size, steps), self._jpeg)
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
        self._checks.append(zlib.crc32(data))
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
            self._shards.append({"file": name, "records": 0, "bytes": 0, "digest": ""})
            self._writer = ArrayRecordWriter(str(self._partial / name), "group_size:1,zstd:3")
            self._shard_bytes, self._shard_digest = 0, content_digest()
        self._writer.write(record)
        self._shard_digest.update(record)
        self._shards[-1]["records"] += 1
        self._shard_bytes += len(record)
        if self._shard_bytes >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.write(self._shard_digest.digest())  # behind the data: `Store` knows the shard by it
            self._writer.close()
            self._writer = None
            shard = self._shards[-1]
            shard["bytes"] = (self._partial / shard["file"]).stat().st_size
            shard["digest"] = self._shard_digest.hexdigest()
            self._digest.update(self._shard_digest.digest())

    def _encoded(self, episode: Episode) -> Episode:
        """The episode with JPEG files in place of the arrays of JPEG leaves."""
        if not self._jpeg:
            return episode
        observations = dict(episode.observations)
        for path in self._jpeg:
            observations[path] = [
                image if isinstance(image, bytes) else jpeg.encode(np.asarray(image)) for image in observations[path]
            ]
        return dataclasses.replace(episode, observations=observations)

    def _finish(self) -> None:
        if not self._lengths and not self._is_part:
            raise StoreError(f"{self.path}: no episode was written")
        self._close_shard()
        self._episodes.close()
        index = {
            "lengths": self._lengths,
            "returns": self._returns,
            "groups": self._groups,
            "lines": self._lines,
            "checks": self._checks,
        }
        header = {
            "version": store_format.VERSION,
            "name": self.name,
            "spec": self.spec.to_json(),
            "metadata": self.metadata,
            "jpeg": self._jpeg,
            "episodes": len(self._lengths),
            "timesteps": sum(self._lengths),
            "groups": [list(group) for group in self._group_names],
            "shards": self._shards,
            "index": _write_index(self._partial, {name: np.array(index[name], kind) for name, kind in INDEX.items()}),
            "fingerprint": self._digest.hexdigest(),
        }
        write_header(self._partial, header)
        try:
            os.rename(self._partial, self.path)
        except OSError:
            if not (self._is_part and self.path.exists()):  # another process was faster with the same part
                raise

    def _failure(self, error: Exception) -> Exception:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return StoreError(
                f"{self.path}: the disk is full after {len(self._lengths)} episodes; free some space and run again"
            )
        if isinstance(error, OSError):
            return StoreError(f"{self.path}: cannot be written: {error.strerror or error}")
        return StoreError(f"{self.path}: cannot be written: {first_line(error)}")


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """``store.json`` with its own checksum."""
    plain = json.loads(json.dumps(header, default=_plain))
    (folder / "store.json").write_text(json.dumps({**plain, "checksum": checksum(plain)}, indent=1))


def merge_parts(parts: Sequence[Path], folder: Path, metadata: Mapping[str, Any]) -> None:
    """Makes ``folder``, which holds the finished ``parts`` in its subfolders, a store of all their episodes in order.

    The shards stay where they are. ``store.json`` is written last, so an interrupted merge can be repeated.

    Raises:
      StoreError: a part is damaged, the parts have no episode, or the disk is full.
    """
    digest = content_digest()
    names: dict[tuple[str, str], int] = {}
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in INDEX}
    shards, begin = [], 0
    try:
        with (folder / "episodes.jsonl").open("wb") as episodes:
            for part in parts:
                store = Store(part)  # one at a time: there may be more of them than a process may open files
                digest.update(bytes.fromhex(store.fingerprint))
                group = np.array([names.setdefault(key, len(names)) for key in store.group_names], np.int32)
                index = store.index()
                index["groups"] = group[index["groups"]]
                index["lines"] = index["lines"][:-1] + begin
                for name, values in index.items():
                    arrays[name].append(values)
                lines = (part / "episodes.jsonl").read_bytes()
                episodes.write(lines)
                begin += len(lines)
                inside = part.relative_to(folder)
                shards += [{**shard, "file": f"{inside}/{shard['file']}"} for shard in store.shards]
        arrays["lines"].append(np.array([begin], np.int64))
        merged = {name: np.concatenate(values).astype(INDEX[name]) for name, values in arrays.items()}
        if not len(merged["lengths"]):
            raise StoreError(f"{folder}: no episode was imported")
        header = {
            "version": store_format.VERSION,
            "name": store.name,
            "spec": store.spec.to_json(),
            "metadata": dict(metadata),
            "jpeg": store.jpeg,
            "episodes": len(merged["lengths"]),
            "timesteps": int(merged["lengths"].sum(dtype=np.int64)),
            "groups": [list(key) for key in names],
            "shards": shards,
            "index": _write_index(folder, merged),
            "fingerprint": digest.hexdigest(),
        }
        write_header(folder, header)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        why = "the disk is full; free some space and run again" if full else error.strerror or str(error)
        raise StoreError(f"{folder}: cannot be written: {why}") from error


def _write_index(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """``index.npz``; returns the digest of its bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    data = buffer.getvalue()
    (folder / "index.npz").write_bytes(data)
    return content_digest(data).hexdigest()


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays in metadata as JSON values."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise StoreError(f"metadata value {value!r} is not JSON")
