from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato.inference.memory import Memory
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.vocabulary import Vocabulary

# A timestep: two observed values, the separator, two action tokens.
SPEC = EpisodeSpec.of({"x": LeafSpec("discrete", (2,), values=1000)}, LeafSpec("discrete", (2,), values=1000))
WORDS = EpisodeSpec.of({"words": LeafSpec("text")}, LeafSpec("discrete", (2,), values=1000))
TOKENIZER = SequenceTokenizer(Vocabulary(2048), None, Layout())
SEPARATOR, PREFIX, ACTIONS = TOKENIZER.vocabulary.separator, 3, 2


def observed(*numbers):
    return TOKENIZER.tokenize({"x": np.array([[n, n] for n in numbers])}, None, SPEC)


def prompt(steps):
    values = np.full((steps, 2), 900)
    return TOKENIZER.tokenize({"x": values}, {"action": values}, SPEC)


def timestep(number):
    return [number, number, SEPARATOR, number, number]


class Reader:
    """Lists that stand for the cache's rows, and what an agent does to them."""

    def __init__(self, memory, prompts):
        self.memory = memory
        self.rows = [[] for _ in prompts]
        for row, steps in enumerate(prompts):
            memory.begin(row, prompt(steps) if steps else None)

    def act(self, number, rows=(0, 1)):
        rows = np.array(rows)
        self.memory.observe(rows, observed(*[number] * len(rows)))
        tokens, valid = self.memory.history.chunk(rows, self.memory.read[rows], 200)
        for i, row in enumerate(rows):
            del self.rows[row][self.memory.positions[row] :]
            self.rows[row] += [*tokens["ids"][i, : valid[i]].tolist(), number]
        self.memory.advance(rows, valid)
        self.memory.acted(rows, np.full((len(rows), ACTIONS), number, np.int32))
        assert self.memory.positions.tolist() == [len(row) for row in self.rows]
        return valid


def memory_of(mode="window", tokens=1000, window=None, rows=2):
    return Memory(rows, mode, tokens, window, ACTIONS, padding=0)


@pytest.mark.parametrize(
    ("window", "first"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 1, 2, 3, 4]), (4, [0, 0, 0, 0, 2, 2])]
)
def test_a_window_holds_the_prompt_and_the_last_timesteps(window, first):
    reader = Reader(memory_of(window=window), (1, 0))
    for step in range(6):
        reader.act(step)
        expected = [token for past in range(first[step], step + 1) for token in timestep(past)][:-1]
        assert reader.rows == [timestep(900) + expected, expected]


def test_without_a_window_the_tokens_are_the_limit():
    reader = Reader(memory_of(tokens=25), (1, 0))
    longest = 0
    for step in range(9):
        reader.act(step)
        longest = max(longest, len(reader.rows[0]))
    assert longest == 24
    crowded = Reader(memory_of(tokens=20), (4, 0))
    crowded.act(1)
    assert crowded.rows[0][-4:] == timestep(1)[:-1]  # at least the timestep that is acted in


def test_a_sliding_row_is_the_last_tokens_and_is_read_anew():
    reader = Reader(memory_of("sliding", tokens=22), (2, 0))
    told = [timestep(900) * 2, []]
    for step in range(8):
        valid = reader.act(step)
        for row in range(2):
            told[row] += timestep(step)
            full = len(told[row]) > 22
            assert reader.rows[row] == told[row][-22:][:-1]
            assert valid[row] == (22 - ACTIONS if full else len(told[row][:-2]) if step == 0 else PREFIX + 1)


def test_memory_reads_every_token_once():
    reader = Reader(memory_of("memory", tokens=10), (1, 0))
    for step in range(8):
        valid = reader.act(step)
        assert reader.rows[1] == [token for past in range(step + 1) for token in timestep(past)][:-1]
        assert valid.tolist() == ([8, 3] if step == 0 else [4, 4])


@given(
    prefixes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    window=st.none() | st.integers(1, 8),
    prompt_steps=st.integers(0, 6),
)
def test_timesteps_of_any_lengths_stay_within_the_tokens(prefixes, window, prompt_steps):
    memory = memory_of(tokens=100, window=window, rows=1)
    memory.begin(0, prompt(prompt_steps) if prompt_steps else None)
    row = np.zeros(1, np.int32)
    for count in prefixes:
        words = TOKENIZER.tokenize({"words": [np.zeros(count, np.int32)]}, None, WORDS)
        memory.observe(row, words)
        assert memory.history.lengths[0] + ACTIONS <= 100
        assert memory.history.lengths[0] >= 5 * prompt_steps + count + 1
        memory.advance(row, memory.unread(row))
        memory.acted(row, np.zeros((1, ACTIONS), np.int32))


@pytest.mark.parametrize("mode", ["window", "sliding", "memory"])
def test_a_row_that_starts_anew_has_its_prompt_and_nothing_else(mode):
    reader = Reader(memory_of(mode), (1, 1))
    for step in range(3):
        reader.act(step)
    reader.memory.restart(1, capacity=1000)
    valid = reader.act(7)
    assert valid.tolist() == [4, 8 if mode == "sliding" else 3]  # row 0 is owed the last token of its last action
    assert reader.rows[1] == timestep(900) + timestep(7)[:-1]
    assert reader.memory.timesteps.tolist() == [4, 1]


def test_a_ring_that_lost_its_prompt_reads_it_again():
    reader = Reader(memory_of("memory", tokens=10), (1, 0))
    for step in range(3):
        reader.act(step)
    reader.memory.restart(0, capacity=12)
    assert reader.act(7).tolist() == [8, 4]
    assert reader.rows[0] == timestep(900) + timestep(7)[:-1]


def test_rows_that_do_not_act_stay_as_they_are():
    reader = Reader(memory_of(window=2), (1, 0))
    reader.act(0)
    before = list(reader.rows[1])
    for step in (1, 2, 3):
        reader.act(step, rows=(0,))
    assert reader.rows[1] == before
    reader.act(4)
    assert reader.rows[1] == timestep(0) + timestep(4)[:-1]
