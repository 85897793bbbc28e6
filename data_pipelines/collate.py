"""Rows -> a batch: a few concatenations and scatters over all tokens at once, without work per token in Python.

A batch is a dictionary of arrays: B rows of L tokens, in G groups of B / G rows (`gato.model.groups`), each with P
patches and N targets:

    ids int32, loss_weight float32, local_position int16, kinds int8, positions int32 (restart in each segment)   [B, L]
    segment_ids int32 [B, L]: 1, 2, ... in a row, 0 is padding
    source int16 [B, L]: index into the mixture's sources, -1 is padding
    patch_index int32 [B, L]: index into the group's patches, -1 for none;  patch_intervals int16 [B, L, 4]
    patches uint8 [G, P, 16, 16, 3]: the distinct patches of a group, then zeros
    target_index int32 [G, N]: flat position b * L + l, in the group's rows, of the token that predicts
    target_ids int32, target_weight float32, target_kind int8, target_source int16 [G, N]: of the token at l + 1, the
    target; weight 0 and source -1 is padding

The first token of a segment has no predecessor and is no target; nor is an image patch, which has no id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gato.data_pipelines import token_cache
from gato.data_pipelines.rows import (
    BEGIN,
    END,
    EPISODE,
    PROMPT_BEGIN,
    PROMPT_END,
    PROMPT_EPISODE,
    SOURCE,
)
from gato.data_pipelines.token_cache import TokenCache
from gato.tokenizers.layout import KINDS
from gato.tokenizers.token_sequence import NO_POSITION

Batch = dict[str, np.ndarray]
PATCH = KINDS.index("patch")
SPECIAL = KINDS.index("special")
LISTS = frozenset({"patches", "target_index", "target_ids", "target_weight", "target_kind", "target_source"})


def collate(
    cache: TokenCache,
    table: np.ndarray,
    rows: np.ndarray,
    count: int,
    length: int,
    padding: int,
    room: Callable[[int], int] | None = None,
) -> Batch:
    """The group of `count` rows, without the axis G, with exactly its targets, and its patches or more.

    Args:
      table, rows: segments int32 [n, 7] and the row of each, ascending, as `Rows.segments` returns them.
      length: tokens in a row. padding: id where there is no token.
      room: how many patches the buffer holds, of how many there are; None for exactly those. They are most of a batch's
        bytes, and are moved once.
    """
    pieces: list[np.ndarray] = []
    piece_patches: list[np.ndarray] = []
    for segment in table.tolist():
        if segment[PROMPT_EPISODE] >= 0:
            prompt = segment[PROMPT_EPISODE], segment[PROMPT_BEGIN], segment[PROMPT_END]
            piece, patches = cache.tokens(segment[SOURCE], *prompt)
            pieces.append(piece)
            piece_patches.append(patches)
        piece, patches = cache.tokens(segment[SOURCE], segment[EPISODE], segment[BEGIN], segment[END])
        pieces.append(piece)
        piece_patches.append(patches)
    tokens = np.concatenate(pieces) if pieces else np.zeros((0, token_cache.COLUMNS), np.int32)
    lengths = (table[:, END] - table[:, BEGIN] + table[:, PROMPT_END] - table[:, PROMPT_BEGIN]).astype(np.int64)
    ends = np.cumsum(lengths)
    first_of_row = np.searchsorted(rows, rows)  # for each segment, the first segment of its row
    before = ends - lengths
    column = before - before[first_of_row]
    positions = np.arange(len(tokens)) - np.repeat(before, lengths)
    flat = positions + np.repeat(rows * length + column, lengths)
    number = np.arange(len(table)) - first_of_row + 1

    def scatter(values: np.ndarray, empty: int, dtype: type) -> np.ndarray:
        array = np.full((count * length, *values.shape[1:]), empty, dtype)
        array[flat] = values
        return array.reshape(count, length, *values.shape[1:])

    ids, weights = token_cache.id_column(tokens), token_cache.weight_column(tokens)
    kinds = token_cache.kind_column(tokens)
    sources = np.repeat(table[:, SOURCE], lengths)
    patches, patch_index = _patches(tokens, pieces, piece_patches, room or int)
    targets = np.flatnonzero((weights > 0) & (positions > 0) & (kinds != PATCH))
    return {
        "ids": scatter(ids, padding, np.int32),
        "loss_weight": scatter(weights, 0, np.float32),
        "local_position": scatter(token_cache.local_position_column(tokens), NO_POSITION, np.int16),
        "segment_ids": scatter(np.repeat(number, lengths), 0, np.int32),
        "positions": scatter(positions, 0, np.int32),
        "kinds": scatter(kinds, SPECIAL, np.int8),
        "source": scatter(sources, -1, np.int16),
        "patch_index": scatter(patch_index, -1, np.int32),
        "patch_intervals": scatter(token_cache.interval_columns(tokens), 0, np.int16),
        "patches": patches,
        "target_index": (flat[targets] - 1).astype(np.int32),
        "target_ids": ids[targets],
        "target_weight": weights[targets],
        "target_kind": kinds[targets].astype(np.int8),
        "target_source": sources[targets].astype(np.int16),
    }


def pad(batch: Batch, patches: int, targets: int) -> Batch:
    """The group with its patch buffer and its targets padded to a static number."""
    padded = dict(batch)
    if len(batch["patches"]) < patches:
        padded["patches"] = _padded(batch["patches"], patches, 0)
    for name in ("target_index", "target_ids", "target_weight", "target_kind"):
        padded[name] = _padded(batch[name], targets, 0)
    padded["target_source"] = _padded(batch["target_source"], targets, -1)
    return padded


def join(groups: Sequence[Batch]) -> Batch:
    """Padded groups -> a batch: rows one after the other, lists of patches and targets stacked."""
    if len(groups) == 1:  # nothing to copy
        return {name: array[None] if name in LISTS else array for name, array in groups[0].items()}
    return {
        name: (np.stack if name in LISTS else np.concatenate)([group[name] for group in groups]) for name in groups[0]
    }


def batch_shapes(
    rows: int, length: int, groups: int, patches: int, targets: int
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and dtype of every array of a batch of `rows` rows; `patches` and `targets` are those of a group, padded.

    For who compiles a step where no data are.
    """
    row, lists = (rows, length), (groups, targets)
    return {
        "ids": (row, np.int32),
        "loss_weight": (row, np.float32),
        "local_position": (row, np.int16),
        "segment_ids": (row, np.int32),
        "positions": (row, np.int32),
        "kinds": (row, np.int8),
        "source": (row, np.int16),
        "patch_index": (row, np.int32),
        "patch_intervals": ((*row, 4), np.int16),
        "patches": ((groups, patches, 16, 16, 3), np.uint8),
        "target_index": (lists, np.int32),
        "target_ids": (lists, np.int32),
        "target_weight": (lists, np.float32),
        "target_kind": (lists, np.int8),
        "target_source": (lists, np.int16),
    }


def _padded(array: np.ndarray, size: int, value: int) -> np.ndarray:
    result = np.full((size, *array.shape[1:]), value, array.dtype)
    result[: len(array)] = array
    return result


def _patches(
    tokens: np.ndarray, pieces: list[np.ndarray], piece_patches: list[np.ndarray], room: Callable[[int], int]
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patches of all pieces, in the order of their first token, and each token's index (-1: no patch)."""
    local = token_cache.patch_column(tokens)
    index = np.full(len(tokens), -1, np.int32)
    where = np.flatnonzero(local >= 0)
    if not len(where):
        return np.zeros((room(0), 16, 16, 3), np.uint8), index
    hashes = token_cache.hash_column(tokens)[where]
    if token_cache.all_different(hashes):
        index[where], chosen = np.arange(len(where)), where
    else:
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        index[where] = rank[inverse]
        chosen = where[first[order]]  # ascending token numbers
    patches = np.empty((room(len(chosen)), 16, 16, 3), np.uint8)
    patches[len(chosen) :] = 0
    ends = np.cumsum([len(piece) for piece in pieces])
    stops = np.searchsorted(chosen, ends)
    start = 0
    for number, stop in enumerate(stops.tolist()):
        if stop > start:
            # With mode="raise" it would be gathered elsewhere and copied.
            np.take(piece_patches[number], local[chosen[start:stop]], axis=0, out=patches[start:stop], mode="clip")
            start = stop
    return patches, index
