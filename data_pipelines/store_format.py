"""How a run of timesteps becomes the bytes of one record of the training store.

The store's spec fixes the order, shape and dtype of everything, so a record is the plain concatenation of

    rewards float32 [k], then for every leaf (observations in the order of the spec, then actions):
      text:   byte lengths uint32 [k], then the UTF-8 bytes
      other:  the values, C order, little-endian, in the dtype of `leaf_dtype`

Values are kept, not tokens: a tokenizer can change without another import. Compression is the container's (zstd).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.errors import StoreError

VERSION = 1
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


def encode_steps(episode: Episode, spec: EpisodeSpec, start: int, stop: int, where: str) -> bytes:
    """The record of timesteps ``start..stop-1``. Raises StoreError for text that is not UTF-8."""
    parts = [np.ascontiguousarray(episode.rewards[start:stop], REWARDS).tobytes()]
    for leaves, values in ((spec.observations, episode.observations), (spec.actions, episode.actions)):
        for path, leaf in leaves.items():
            chunk = values[path][start:stop]
            if leaf.modality == "text":
                try:
                    texts = [text.encode() for text in chunk]
                except UnicodeEncodeError as error:
                    raise StoreError(f"{where}: {path}: text that is not UTF-8 ({error.reason}); clean it") from error
                parts.append(np.array([len(text) for text in texts], LENGTHS).tobytes())
                parts.extend(texts)
            else:
                parts.append(np.ascontiguousarray(chunk, leaf_dtype(leaf)).tobytes())
    return b"".join(parts)


def decode_steps(record: bytes, spec: EpisodeSpec, steps: int, where: str) -> Episode:
    """The inverse of `encode_steps` (without metadata). Raises StoreError if the bytes do not fill the spec exactly."""
    groups: list[dict[str, Any]] = [{}, {}]
    try:
        rewards = np.frombuffer(record, REWARDS, steps)
        offset = rewards.nbytes
        for leaves, group in zip((spec.observations, spec.actions), groups, strict=True):
            for path, leaf in leaves.items():
                if leaf.modality == "text":
                    lengths = np.frombuffer(record, LENGTHS, steps, offset)
                    offset += lengths.nbytes
                    texts = []
                    for length in lengths.tolist():
                        texts.append(record[offset : offset + length].decode())
                        offset += length
                    group[path] = texts
                else:
                    values = np.frombuffer(record, leaf_dtype(leaf), steps * leaf.size, offset)
                    group[path] = values.reshape((steps, *leaf.shape))
                    offset += values.nbytes
    except ValueError as error:
        raise StoreError(f"{where}: a damaged record of {len(record)} bytes; collect or import it again") from error
    if offset != len(record):
        raise StoreError(f"{where}: a record of {len(record)} bytes instead of {offset}; collect or import it again")
    return Episode(groups[0], groups[1], rewards)


def join(parts: list[Episode], start: int, stop: int) -> Episode:
    """Timesteps ``start..stop-1`` of consecutive parts, copied into arrays of their own."""

    def leaf(values: list[Any]) -> Any:
        if isinstance(values[0], list):
            return [text for part in values for text in part][start:stop]
        return (values[0] if len(values) == 1 else np.concatenate(values))[start:stop]

    return Episode(
        {path: leaf([part.observations[path] for part in parts]) for path in parts[0].observations},
        {path: leaf([part.actions[path] for part in parts]) for path in parts[0].actions},
        leaf([part.rewards for part in parts]),
    )
