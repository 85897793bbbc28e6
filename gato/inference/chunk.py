"""Chunks: ragged tokens of a batch of rows, laid out as the fixed-shape arrays that one compiled call takes.

The tokenizer sees the observations of all environments in one vectorised call, as if they were the timesteps of one
episode; here its flat result is dealt out to the rows. A chunk of a row is a concatenation of pieces: remembered
timesteps, the last action, the new observation. Everything is numpy; nothing loops over rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION, TokenSequence

PATCH_SIZE = 16
# Chunks of embodiments with text vary in length; rounding keeps the number of compiled shapes small.
ROUNDING = 16
SMALLEST_CAPACITY, GROWTH = 64, 4


@dataclasses.dataclass(frozen=True)
class Piece:
    """n tokens of several rows, sorted by row.

    Attributes:
      rows: int32 [n], the row of each token, ascending.
      ids, local_position, patch_index: [n], as in `TokenSequence`.
      patches: uint8 [n_p, 16, 16, 3]; patch_intervals: int16 [n_p, 4].
    """

    rows: np.ndarray
    ids: np.ndarray
    local_position: np.ndarray
    patch_index: np.ndarray
    patches: np.ndarray
    patch_intervals: np.ndarray

    @staticmethod
    def of_timesteps(sequence: TokenSequence) -> Piece:
        """Timestep i of the sequence belongs to row i."""
        return Piece.of_tokens(sequence, sequence.timestep)

    @staticmethod
    def of_tokens(sequence: TokenSequence, rows: np.ndarray) -> Piece:
        return Piece(
            rows,
            sequence.ids,
            sequence.local_position,
            sequence.patch_index,
            sequence.patches,
            sequence.patch_intervals,
        )

    @staticmethod
    def of_actions(ids: np.ndarray) -> Piece:
        """Action tokens ``ids`` [rows, n]."""
        return _without_patches(ids, ACTION_POSITION)

    @staticmethod
    def of_text(ids: np.ndarray) -> Piece:
        """Text tokens ``ids`` [rows, n] of documents."""
        return _without_patches(ids, NO_POSITION)

    def take(self, rows: np.ndarray) -> Piece:
        """Only the tokens of the rows chosen by the boolean mask ``rows`` [B], at their places."""
        return self if rows.all() else self._cut(rows[self.rows], self.rows)

    def keep(self, rows: np.ndarray, batch: int) -> Piece:
        """Row ``rows[i]`` (ascending) of ``batch`` rows becomes row i; the others go."""
        number = np.full(batch, -1, np.int32)
        number[rows] = np.arange(len(rows), dtype=np.int32)
        renamed = number[self.rows]
        return self._cut(renamed >= 0, renamed)

    def _cut(self, chosen: np.ndarray, rows: np.ndarray) -> Piece:
        index = self.patch_index[chosen]
        is_patch = index >= 0
        used = index[is_patch]
        renumbered = np.where(is_patch, np.cumsum(is_patch) - 1, -1).astype(np.int32)
        return Piece(
            rows[chosen],
            self.ids[chosen],
            self.local_position[chosen],
            renumbered,
            self.patches[used],
            self.patch_intervals[used],
        )


def _without_patches(ids: np.ndarray, local_position: int) -> Piece:
    rows, count = ids.shape
    size = rows * count
    return Piece(
        np.repeat(np.arange(rows, dtype=np.int32), count),
        ids.reshape(-1),
        np.full(size, local_position, np.int16),
        np.full(size, -1, np.int32),
        np.zeros((0, PATCH_SIZE, PATCH_SIZE, 3), np.uint8),
        np.zeros((0, 4), np.int16),
    )


def lengths(pieces: Sequence[Piece], batch: int) -> np.ndarray:
    """Tokens of every row, int32 [batch]."""
    total = np.zeros(batch, np.int32)
    for piece in pieces:
        total += np.bincount(piece.rows, minlength=batch).astype(np.int32)
    return total


def rounded(length: int, ragged: bool) -> int:
    """Length of the compiled shape: exact where all rows have it, else the next multiple of 16."""
    return -(-length // ROUNDING) * ROUNDING if ragged else length


def pack(
    pieces: Sequence[Piece], batch: int, length: int, padding: int, patch_capacity: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lays the pieces of every row one after the other.

    Args:
      pieces: in the order in which they follow each other in a row; a row may have no token in a piece.
      batch, length: B and n of the result; ``length`` is at least the longest row.
      padding: id of the tokens behind a row's end.
      patch_capacity: least number of patches in the result. Equal patches are stored once (the backgrounds of games and
        the tiles of grid worlds repeat); where they need more room, it grows fourfold until they fit.

    Returns:
      The arrays ``ids``, ``local_position``, ``patch_index`` [B, n], ``patch_intervals`` [B, n, 4], ``patches``
      [capacity, 16, 16, 3] of a batch, and the number of valid tokens, int32 [B].
    """
    tokens: dict[str, np.ndarray] = {
        "ids": np.full((batch, length), padding, np.int32),
        "local_position": np.full((batch, length), -1, np.int16),
        "patch_index": np.full((batch, length), -1, np.int32),
        "patch_intervals": np.zeros((batch, length, 4), np.int16),
    }
    tokens["patches"], numbers = _distinct([piece.patches for piece in pieces], patch_capacity)
    used = np.zeros(batch, np.int32)
    patches = 0
    for piece in pieces:
        counts = np.bincount(piece.rows, minlength=batch)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows = piece.rows
        columns = np.arange(len(rows)) - starts[rows] + used[rows]
        tokens["ids"][rows, columns] = piece.ids
        tokens["local_position"][rows, columns] = piece.local_position
        if len(piece.patches):
            is_patch = piece.patch_index >= 0
            index = piece.patch_index[is_patch]
            at = rows[is_patch], columns[is_patch]
            tokens["patch_index"][at] = numbers[index + patches]
            tokens["patch_intervals"][at] = piece.patch_intervals[index]
            patches += len(piece.patches)
        used += counts.astype(np.int32)
    return tokens, used


def _distinct(patches: Sequence[np.ndarray], capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patches, padded to the capacity, and for each given patch its number among them."""
    pixels = np.concatenate(patches)
    if not len(pixels):
        return np.zeros((capacity, *pixels.shape[1:]), np.uint8), np.zeros(0, np.int32)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    rows = flat.view(np.dtype((np.void, flat.shape[1]))).reshape(-1)
    _, first, numbers = np.unique(rows, return_index=True, return_inverse=True)
    capacity = max(capacity, SMALLEST_CAPACITY)
    while capacity < len(first):
        capacity *= GROWTH
    result = np.zeros((capacity, *pixels.shape[1:]), np.uint8)
    result[: len(first)] = pixels[first]
    return result, numbers.reshape(-1).astype(np.int32)


def used(tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the network reads; without the patch arrays where there is no patch: less to compile and to copy."""
    patches = ("patch_index", "patch_intervals", "patches") if len(tokens["patches"]) else ()
    return {name: tokens[name] for name in ("ids", "local_position", *patches)}
