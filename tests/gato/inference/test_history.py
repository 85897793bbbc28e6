from __future__ import annotations

import numpy as np

from gato.inference.history import History
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.token_sequence import ACTION_POSITION
from gato.tokenizers.vocabulary import Vocabulary

SPEC = EpisodeSpec.of(
    {"image": LeafSpec("image", (16, 32, 3)), "words": LeafSpec("text")}, LeafSpec("discrete", values=3)
)
TOKENIZER = SequenceTokenizer(Vocabulary(2048), None, Layout())
WORDS = [np.array([5, 6, 7]), np.array([8]), np.array([], np.int64)]
ALL = np.arange(3)
START = np.zeros(3, np.int32)


def observed(seed=0):
    images = np.random.default_rng(seed).integers(256, size=(3, 16, 32, 3), dtype=np.uint8)
    images[2] = images[0]
    return TOKENIZER.tokenize({"image": images, "words": WORDS}, None, SPEC)


def history_of(*sequences):
    history = History(3, padding=99)
    for sequence in sequences:
        history.append(sequence.timestep, sequence)
    return history


def test_each_row_holds_its_tokens_one_after_the_other():
    sequence = observed()
    history = History(3, padding=99)
    history.append_ids(np.array([0, 2]), np.array([[1], [0]], np.int32), ACTION_POSITION)
    history.append(sequence.timestep, sequence)
    tokens, valid = history.chunk(ALL, START, 8)
    assert valid.tolist() == [7, 4, 4]
    for row in range(3):
        first = 0 if row == 1 else 1
        alone = sequence.slice(row, row + 1)
        np.testing.assert_array_equal(tokens["ids"][row, first : valid[row]], alone.ids)
        np.testing.assert_array_equal(tokens["local_position"][row, first : valid[row]], alone.local_position)
        assert (tokens["ids"][row, valid[row] :] == 99).all()
        index = tokens["patch_index"][row, first : first + 2]
        np.testing.assert_array_equal(tokens["patches"][index], alone.patches)
        np.testing.assert_array_equal(tokens["patch_intervals"][row, first : first + 2], alone.patch_intervals)
        assert (tokens["patch_index"][row, first + 2 :] == -1).all()
    assert tokens["ids"][:, 0].tolist()[::2] == [1, 0]
    assert tokens["local_position"][:, 0].tolist()[::2] == [ACTION_POSITION] * 2


def test_chunks_of_some_rows_begin_where_asked():
    sequence = observed()
    whole, _ = history_of(sequence, sequence).chunk(ALL, START, 12)
    part, valid = history_of(sequence, sequence).chunk(np.array([0, 2]), np.array([2, 5]), 4)
    assert valid.tolist() == [4, 1]
    assert part["ids"][0].tolist() == whole["ids"][0, 2:6].tolist()
    assert part["ids"][1].tolist() == [whole["ids"][2, 5], 99, 99, 99]


def test_what_is_cut_out_is_gone_and_the_rest_moves_up():
    sequence = observed()
    history = history_of(sequence, observed(1))
    before, _ = history.chunk(ALL, START, 12)
    history.cut(1, 0, 4)
    after, valid = history.chunk(ALL, START, 12)
    assert valid.tolist() == [12, 4, 6]
    assert after["ids"][1, :4].tolist() == before["ids"][1, 4:8].tolist()
    for row, tokens in ((1, slice(4, 8)), (0, slice(0, 12))):
        old, new = before["patch_index"][row, tokens], after["patch_index"][row, : tokens.stop - tokens.start]
        assert (old >= 0).tolist() == (new >= 0).tolist()
        np.testing.assert_array_equal(before["patches"][old[old >= 0]], after["patches"][new[new >= 0]])


def test_equal_patches_are_stored_once_in_few_sizes():
    history = history_of(observed())
    tokens, _ = history.chunk(ALL, START, 6)
    assert len(tokens["patches"]) == 64
    assert tokens["patch_index"][0, :2].tolist() == tokens["patch_index"][2, :2].tolist()
    assert len(np.unique(tokens["patch_index"][tokens["patch_index"] >= 0])) == 4
    assert len(history.chunk(ALL, START, 6, patch_capacity=100)[0]["patches"]) == 100
    assert len(history_of(*(observed(seed) for seed in range(20))).chunk(ALL, START, 128)[0]["patches"]) == 256


def test_rows_that_stay_keep_their_tokens_and_patches():
    history = history_of(observed())
    both, _ = history.chunk(ALL, START, 6)
    history.keep(np.array([1, 2]))
    kept, valid = history.chunk(ALL[:2], START[:2], 6)
    np.testing.assert_array_equal(kept["ids"], both["ids"][1:])
    np.testing.assert_array_equal(
        kept["patches"][kept["patch_index"][:, :2]], both["patches"][both["patch_index"][1:, :2]]
    )
    assert valid.tolist() == [4, 3]


def test_without_a_picture_there_are_no_patch_arrays():
    history = History(2, padding=0)
    history.append_ids(np.arange(2), np.zeros((2, 3), np.int32))
    assert set(history.chunk(ALL[:2], START[:2], 3)[0]) == {"ids", "local_position"}
