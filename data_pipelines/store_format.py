"""How a run of timesteps becomes the bytes of one record of the training store.

The store's spec fixes the order, shape and dtype of everything, so a record is the plain concatenation of

    rewards float32 [k], then for every leaf (observations in the order of the spec, then actions):
      text:   byte lengths uint32 [k], then the UTF-8 bytes
      JPEG:   byte lengths uint32 [k], then the files: camera images stay as they came (`StoreWriter`'s ``jpeg``)
      other:  the values, C order, little-endian, in the dtype of `leaf_dtype`

Values are kept, not tokens: a tokenizer can change without another import. Compression is the container's (zstd).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from gato.data_pipelines import jpeg
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.errors import StoreError

VERSION = 3  # 3: digests tie the files to their store
LENGTHS = np.dtype("<u4")
REWARDS = np.dtype("<f4")


def steps_per_record(spec: EpisodeSpec) -> int:
    """Timesteps in one record: few where frames are large, more for vectors (measured: a record is read whole)."""
    if spec.kind == "document":
        return 1
    return 8 if any(leaf.modality == "image" for leaf in spec.observations.values()) else 32


def leaf_dtype(leaf: LeafSpec) -> np.dtype:
    """The dtype in which a leaf that is no text is kept: float32, uint8 pixels, the smallest integer for its values."""
    if leaf.modality == "continuous":
        return np.dtype("<f4")
    if leaf.modality == "image":
        return np.dtype("u1")
    return np.min_scalar_type((leaf.values or 1) - 1).newbyteorder("<")


def encode_steps(
    episode: Episode, spec: EpisodeSpec, start: int, stop: int, jpeg_leaves: Collection[str] = ()
) -> bytes:
    """The record of timesteps ``start..stop-1`` of a checked episode."""
    parts = [np.ascontiguousarray(episode.rewards[start:stop], REWARDS).tobytes()]
    for leaves, values in ((spec.observations, episode.observations), (spec.actions, episode.actions)):
        for path, leaf in leaves.items():
            chunk = values[path][start:stop]
            if leaf.modality == "text" or path in jpeg_leaves:
                files = [value.encode() if isinstance(value, str) else value for value in chunk]
                parts.append(np.array([len(file) for file in files], LENGTHS).tobytes())
                parts.extend(files)
            else:
                parts.append(np.ascontiguousarray(chunk, leaf_dtype(leaf)).tobytes())
    return b"".join(parts)


def decode_steps(
    record: bytes,
    spec: EpisodeSpec,
    steps: int,
    where: str,
    jpeg_leaves: Collection[str] = (),
    begin: int = 0,
    end: int | None = None,
) -> Episode:
    """Timesteps ``begin..end-1`` (all by default) of the record of ``steps`` timesteps, without metadata.

    Raises StoreError if the bytes do not fill the spec exactly.
    """
    end = steps if end is None else end
    groups: list[dict[str, Any]] = [{}, {}]
    try:
        rewards = np.frombuffer(record, REWARDS, steps)
        offset = rewards.nbytes
        for leaves, group in zip((spec.observations, spec.actions), groups, strict=True):
            for path, leaf in leaves.items():
                if leaf.modality == "text" or path in jpeg_leaves:
                    lengths = np.frombuffer(record, LENGTHS, steps, offset)
                    bounds = offset + lengths.nbytes + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
                    offset = int(bounds[-1])
                    files = [record[bounds[step] : bounds[step + 1]] for step in range(begin, end)]
                    if leaf.modality == "text":
                        group[path] = [file.decode() for file in files]
                    else:
                        group[path] = np.stack([jpeg.decode(file, leaf.shape) for file in files])
                else:
                    values = np.frombuffer(record, leaf_dtype(leaf), steps * leaf.size, offset)
                    group[path] = values.reshape((steps, *leaf.shape))[begin:end]
                    offset += values.nbytes
    except ValueError as error:
        raise StoreError(f"{where}: a damaged record of {len(record)} bytes; collect or import it again") from error
    if offset != len(record):
        raise StoreError(f"{where}: a record of {len(record)} bytes instead of {offset}; collect or import it again")
    return Episode(groups[0], groups[1], rewards[begin:end])


def join(parts: list[Episode]) -> Episode:
    """Consecutive parts as one episode without metadata."""

    def leaf(values: list[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        if isinstance(values[0], list):
            return [text for part in values for text in part]
        return np.concatenate(values)

    return Episode(
        {path: leaf([part.observations[path] for part in parts]) for path in parts[0].observations},
        {path: leaf([part.actions[path] for part in parts]) for path in parts[0].actions},
        leaf([part.rewards for part in parts]),
    )
