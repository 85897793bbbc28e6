import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.data_pipelines.packing import best_fit_decreasing, minimum_slack, pack, spread

problems = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), min_size=1, max_size=80))
)


def plain(lengths: list[int], capacity: int) -> list[int]:
    """Best fit decreasing as the textbook says it: the room that is left in each row, in no particular row order."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@given(problems)
def test_packs_like_the_textbook(problem):
    capacity, lengths = problem
    rows = best_fit_decreasing(np.array(lengths), capacity)
    filled = np.bincount(rows, lengths)
    assert rows.min() >= 0
    assert sorted(capacity - filled) == plain(lengths, capacity)


@given(problems, st.integers(1, 20))
def test_limited_rows_overflow_only_what_has_no_room(problem, limit):
    capacity, lengths = problem
    rows = best_fit_decreasing(np.array(lengths), capacity, limit)
    filled = np.bincount(rows[rows >= 0], np.array(lengths)[rows >= 0], limit)
    assert rows.max() < limit
    assert filled.max() <= capacity
    for length, row in zip(lengths, rows, strict=True):
        if row < 0:
            assert (capacity - filled < length).all()


@given(problems, st.integers(1, 100))
@settings(max_examples=50)
def test_spread_moves_nothing_into_filled_rows(problem, extra):
    capacity, lengths = problem
    before = best_fit_decreasing(np.array(lengths), capacity)
    used = int(before.max()) + 1
    after = spread(before, used + extra)
    filled = np.bincount(after, lengths, used + extra)
    assert filled.max() <= capacity
    assert len(after) == len(lengths)
    assert ((after == before) | (after >= used)).all()
    assert (np.bincount(after, minlength=used)[:used] > 0).all()


def test_spread_fills_every_row_if_there_are_enough_items():
    rows = spread(best_fit_decreasing(np.full(40, 10), 100), 8)
    assert np.bincount(rows, minlength=8).min() > 0


def best_first_row(lengths: list[int], capacity: int) -> int:
    """The most that a row can hold that contains the longest item, by trying all sums."""
    longest, *others = sorted(lengths, reverse=True)
    sums = {longest}
    for length in others:
        sums |= {total + length for total in sums if total + length <= capacity}
    return max(sums)


@given(problems)
def test_minimum_slack_fills_the_first_row_as_full_as_possible(problem):
    capacity, lengths = problem
    rows = minimum_slack(np.array(lengths), capacity)
    filled = np.bincount(rows, lengths)
    assert filled.max() <= capacity
    assert filled.min() > 0
    assert filled[0] == best_first_row(lengths, capacity)


@given(problems, st.none() | st.integers(1, 20))
def test_pack_is_never_worse_than_best_fit(problem, limit):
    capacity, lengths = problem
    rows, best_fit = (way(np.array(lengths), capacity, limit) for way in (pack, best_fit_decreasing))
    assert np.bincount(rows[rows >= 0], np.array(lengths)[rows >= 0]).max() <= capacity
    assert rows.max() <= best_fit.max()
    assert (rows < 0).sum() <= (best_fit < 0).sum()


def test_pack_finds_combinations_of_few_lengths():
    lengths = np.repeat([58, 57, 38, 28, 19], [300, 300, 200, 400, 900])
    fills = [lengths.sum() / ((way(lengths, 128).max() + 1) * 128) for way in (best_fit_decreasing, pack)]
    assert fills[0] + 0.01 < fills[1]


def test_fill_of_short_uniform_items():
    lengths = np.random.default_rng(0).integers(19, 63, 5000)
    rows = best_fit_decreasing(lengths, 256)
    assert lengths.sum() / ((rows.max() + 1) * 256) > 0.98
