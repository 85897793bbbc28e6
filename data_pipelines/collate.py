"""Rows -> a batch: a few concatenations over all tokens at once, padding included, without work per token in Python.

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

import functools
import itertools
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
from gato.data_pipelines.token_cache import Patches, TokenCache, Tokens
from gato.tokenizers.layout import KINDS
from gato.tokenizers.token_sequence import NO_POSITION

Batch = dict[str, np.ndarray]
PATCH = KINDS.index("patch")
SPECIAL = KINDS.index("special")
NO_PATCHES = Patches(np.zeros((0, 16, 16, 3), np.uint8))
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
    pieces: list[Tokens] = []  # in the order of their tokens
    sizes: list[int] = []
    numbers: list[int] = []  # of the segment in its row; 0 is padding
    sources: list[int] = []
    blank = _blank(length, padding)
    segments = table.tolist()
    bounds = np.searchsorted(rows, np.arange(count + 1)).tolist()
    for first, last in itertools.pairwise(bounds):
        room_left = length
        for number, segment in enumerate(segments[first:last], 1):
            source, size = segment[SOURCE], 0
            if segment[PROMPT_EPISODE] >= 0:
                pieces.append(cache.tokens(source, segment[PROMPT_EPISODE], segment[PROMPT_BEGIN], segment[PROMPT_END]))
                size = len(pieces[-1][0])
            pieces.append(cache.tokens(source, segment[EPISODE], segment[BEGIN], segment[END]))
            size += len(pieces[-1][0])
            sizes.append(size)
            numbers.append(number)
            sources.append(source)
            room_left -= size
        if room_left:
            pieces.append((blank[:room_left], NO_PATCHES))
            sizes.append(room_left)
            numbers.append(0)
            sources.append(-1)
    tokens = np.concatenate([table for table, _ in pieces])
    ends = np.cumsum(sizes)
    segment_ids = np.repeat(np.array(numbers, np.int32), sizes)
    source_ids = np.repeat(np.array(sources, np.int16), sizes)
    positions = np.arange(count * length, dtype=np.int32) - np.repeat((ends - sizes).astype(np.int32), sizes)
    positions[segment_ids == 0] = 0
    ids = np.ascontiguousarray(token_cache.id_column(tokens))
    weights = np.ascontiguousarray(token_cache.weight_column(tokens))
    kinds = token_cache.kind_column(tokens).astype(np.int8)
    patches, patch_index = _patches(tokens, pieces, room or int)
    targets = np.flatnonzero((weights > 0) & (positions > 0) & (kinds != PATCH))
    batch = {
        "ids": ids,
        "loss_weight": weights,
        "local_position": np.ascontiguousarray(token_cache.local_position_column(tokens)),
        "segment_ids": segment_ids,
        "positions": positions,
        "kinds": kinds,
        "source": source_ids,
        "patch_index": patch_index,
        "patch_intervals": np.ascontiguousarray(token_cache.interval_columns(tokens)),
    }
    return {name: array.reshape(count, length, *array.shape[1:]) for name, array in batch.items()} | {
        "patches": patches,
        "target_index": (targets - 1).astype(np.int32),
        "target_ids": ids[targets],
        "target_weight": weights[targets],
        "target_kind": kinds[targets],
        "target_source": source_ids[targets],
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


@functools.lru_cache(maxsize=4)
def _blank(length: int, padding: int) -> np.ndarray:
    """The table of `length` tokens of padding."""
    table = np.zeros((length, token_cache.COLUMNS), np.int32)
    token_cache.id_column(table)[:] = padding
    token_cache.local_position_column(table)[:] = NO_POSITION
    token_cache.kind_column(table)[:] = SPECIAL
    token_cache.patch_column(table)[:] = -1
    return table


def _patches(tokens: np.ndarray, pieces: Sequence[Tokens], room: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patches of all pieces, in the order of their first token, and each token's index (-1: no patch)."""
    local = token_cache.patch_column(tokens)
    index = np.full(len(tokens), -1, np.int32)
    where = np.flatnonzero(local >= 0)
    if not len(where):
        return np.zeros((room(0), 16, 16, 3), np.uint8), index
    ends = np.cumsum([len(table) for table, _ in pieces])
    shown = np.arange(len(where))  # for each patch token, the first one that shows the same patch
    repeated = _repeated(token_cache.key_column(tokens)[where])
    if len(repeated):
        hashes = np.empty(len(repeated), np.uint64)
        start = 0
        for number, stop in enumerate(np.searchsorted(where[repeated], ends).tolist()):
            if stop > start:
                hashes[start:stop] = pieces[number][1].hashes[local[where[repeated[start:stop]]]]
                start = stop
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        shown[repeated] = repeated[first[inverse]]
    firsts = shown == np.arange(len(where))
    index[where] = (np.cumsum(firsts) - 1)[shown]
    chosen = where[firsts]  # ascending token numbers
    patches = np.empty((room(len(chosen)), 16, 16, 3), np.uint8)
    patches[len(chosen) :] = 0
    stops = np.searchsorted(chosen, ends)
    start = 0
    for number, stop in enumerate(stops.tolist()):
        if stop > start:
            # With mode="raise" it would be gathered elsewhere and copied.
            np.take(pieces[number][1].pixels, local[chosen[start:stop]], axis=0, out=patches[start:stop], mode="clip")
            start = stop
    return patches, index


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Ascending indices of the keys that occur more than once. Of a camera's patches hardly any: few need be hashed."""
    order = np.argsort(keys)
    ordered = keys[order]
    again = np.zeros(len(keys) + 1, bool)
    again[1:-1] = ordered[1:] == ordered[:-1]
    return np.sort(order[again[1:] | again[:-1]])
