"""Packing items of known lengths into rows.

Best-fit decreasing fills 0.98 and more of the rows where lengths vary. Where a mixture has only a few lengths that do
not add up to a row, filling one row after the other as exactly as possible (minimum bin slack, Gupta and Ho 1999) is
better. `benchmarks/data.py` prints what share is filled.
"""

from __future__ import annotations

import numpy as np

GOOD_FILL = 0.985  # best-fit decreasing is taken without another try


def pack(lengths: np.ndarray, capacity: int, rows: int | None = None) -> np.ndarray:
    """The row of each item, int32 [n], by the better of the two ways; -1 where `rows` rows have no room.

    Args:
      lengths: int [n], each in 1..capacity.
      capacity: tokens in a row.
      rows: at most this many rows; None for as many as needed.
    """
    best = best_fit_decreasing(lengths, capacity)
    if len(lengths) and lengths.sum() < GOOD_FILL * capacity * (int(best.max()) + 1):
        other = minimum_slack(lengths, capacity)
        best = other if other.max() < best.max() else best
    if rows is not None and len(lengths) and best.max() >= rows:
        return best_fit_decreasing(lengths, capacity, rows)
    return best


def best_fit_decreasing(lengths: np.ndarray, capacity: int, rows: int | None = None) -> np.ndarray:
    """Longest item first, each into the row with the least room that holds it, a new row if there is none.

    Arguments and result as of `pack`.
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


def minimum_slack(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Each row gets the longest item left and those of the others that fill it best; as many rows as needed.

    A combination of lengths, once found, is repeated as often as the items last, so the search is rare.
    """
    order = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(-lengths, return_counts=True)
    left = dict(zip((-sizes).tolist(), counts.tolist(), strict=True))  # longest first
    begin = dict(
        zip(left, (np.cumsum(counts) - counts).tolist(), strict=True)
    )  # place in `order` of the next of a size
    ordered_rows = np.empty(len(lengths), np.int32)
    row = 0
    while left:
        longest = next(iter(left))
        left[longest] -= 1
        combination = _fill(capacity - longest, left)
        left[longest] += 1
        combination[longest] = combination.get(longest, 0) + 1
        repeats = min(left[size] // number for size, number in combination.items())
        for size, number in combination.items():
            stop = begin[size] + number * repeats
            ordered_rows[begin[size] : stop] = row + np.arange(number * repeats) // number
            begin[size] = stop
            left[size] -= number * repeats
            if not left[size]:
                del left[size]
        row += repeats
    result = np.empty(len(lengths), np.int32)
    result[order] = ordered_rows
    return result


def _fill(gap: int, left: dict[int, int]) -> dict[int, int]:
    """How many items of which size fill the gap best, the long ones preferred; `left` has sizes in decreasing order."""
    within = (1 << (gap + 1)) - 1
    sums = 1  # bit s is set if some of the items looked at so far add up to s
    looked_at: list[tuple[int, int]] = []
    for size, count in left.items():
        if size <= gap and count:
            looked_at.append((size, sums))
            for _ in range(min(count, gap // size)):
                sums |= (sums << size) & within
            if sums >> gap:
                break
    target = sums.bit_length() - 1
    combination: dict[int, int] = {}
    for size, before in reversed(looked_at):
        while not before >> target & 1:
            combination[size] = combination.get(size, 0) + 1
            target -= size
    return combination


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
