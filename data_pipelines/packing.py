"""Packing items of known lengths into rows: best-fit decreasing.

Measured on synthetic items (DATA.md, design 5): it fills 0.90 to 0.999 of the row, online first-fit 0.89 to 0.98.
"""

from __future__ import annotations

import numpy as np


def best_fit_decreasing(lengths: np.ndarray, capacity: int, rows: int | None = None) -> np.ndarray:
    """The row of each item, int32 [n]; -1 where no row has room.

    Longest item first, each into the row with the least room that holds it, a new row if there is none.

    Args:
      lengths: int [n], each in 1..capacity.
      capacity: tokens in a row.
      rows: at most this many rows; None for as many as needed.
    """
    order = np.argsort(-lengths, kind="stable")
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # room -> rows that have exactly so much
    rooms = 0  # bit r is set if some row has room r; one shift and one lowest bit find the best fit
    limit = len(lengths) if rows is None else rows
    opened = 0
    chosen: list[int] = []
    for size in lengths[order].tolist():
        above = rooms >> size
        if above:
            room = size + (above & -above).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        elif opened < limit:
            row, room = opened, capacity
            opened += 1
        else:
            chosen.append(-1)
            continue
        chosen.append(row)
        room -= size
        if room:
            with_room[room].append(row)
            rooms |= 1 << room
    result = np.empty(len(lengths), np.int32)
    result[order] = chosen
    return result


def spread(assignment: np.ndarray, rows: int) -> np.ndarray:
    """The same packing with empty rows given every second item of the rows that hold the most items.

    A batch of empty rows would be a training step without a target. Rows stay empty only if there are too few items.
    """
    counts = np.bincount(assignment, minlength=rows)
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return assignment
    donors = np.argsort(-counts, kind="stable")[: len(empty)]
    donors = donors[counts[donors] > 1]
    result = assignment.copy()
    for row, donor in zip(empty, donors, strict=False):
        result[np.flatnonzero(assignment == donor)[1::2]] = row
    return result
