from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato.inference.chunk import Piece, lengths, pack
from gato.inference.memory import Memory

PREFIX, ACTIONS = 3, 2


def play(window, steps, prompts=(4, 0), budget=1000):
    """What a cache would hold after each step, as lists of ids, and the memory."""
    memory = Memory(np.array(prompts, np.int32), window, budget, ACTIONS)
    cache = [[-1] * length for length in prompts]
    held = []
    for step in range(steps):
        ids = np.arange(PREFIX, dtype=np.int32) + 100 * step
        prefix = Piece.of_actions(np.tile(ids, (2, 1)))
        pieces = memory.chunk(prefix, PREFIX)
        tokens, valid = pack(pieces, 2, int(lengths(pieces, 2).max()), padding=0)
        action = np.tile(100 * step + 50 + np.arange(ACTIONS, dtype=np.int32), (2, 1))
        for row in range(2):
            cache[row] = cache[row][: memory.lengths[row]] + tokens["ids"][row, : valid[row]].tolist()
            cache[row] += action[row, :-1].tolist()
        memory.remember(prefix, action, valid)
        assert memory.lengths.tolist() == [len(row) for row in cache]
        held.append([row[:] for row in cache])
    return memory, held


def timestep(step):
    return [100 * step + i for i in range(PREFIX)] + [100 * step + 50 + i for i in range(ACTIONS)]


@pytest.mark.parametrize(
    ("window", "first"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 1, 2, 3, 4]), (4, [0, 0, 0, 0, 2, 2])]
)
def test_the_cache_holds_the_prompt_and_the_last_timesteps(window, first):
    _, held = play(window, 6)
    for step, rows in enumerate(held):
        expected = [token for past in range(first[step], step + 1) for token in timestep(past)][:-1]
        assert rows == [[-1] * 4 + expected, expected]


def test_without_a_window_the_training_length_is_the_limit():
    memory, held = play(None, 9, budget=24)
    assert memory.window(PREFIX) == 4
    assert memory.tokens(PREFIX) == 24
    assert max(len(rows[0]) for rows in held) == 23
    crowded = Memory(np.array([20]), None, 24, ACTIONS)
    assert crowded.window(100) == 1  # at least the timestep that is acted in


@given(
    prefixes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    window=st.none() | st.integers(1, 8),
    prompt=st.integers(0, 30),
)
def test_timesteps_of_any_lengths_stay_within_the_budget(prefixes, window, prompt):
    budget = 100
    memory = Memory(np.array([prompt], np.int32), window, budget, ACTIONS)
    for count in prefixes:
        promised = memory.tokens(count)
        pieces = memory.chunk(Piece.of_actions(np.zeros((1, count), np.int32)), count)
        appended = lengths(pieces, 1)
        memory.remember(Piece.of_actions(np.zeros((1, count), np.int32)), np.zeros((1, ACTIONS), np.int32), appended)
        assert memory.lengths[0] < promised <= budget


def test_a_row_that_starts_anew_is_not_given_the_past_of_the_episode_before():
    memory, _ = play(4, 3)
    memory.restart(np.array([1]))
    prefix = Piece.of_actions(np.full((2, PREFIX), 7, np.int32))
    tokens, valid = pack(memory.chunk(prefix, PREFIX), 2, 4, padding=0)
    assert valid.tolist() == [4, 3]  # row 0 is owed the last token of its last action
    assert tokens["ids"][0].tolist() == [251, 7, 7, 7]
    assert memory.lengths.tolist() == [4 + 14, 0]
