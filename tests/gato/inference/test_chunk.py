from __future__ import annotations

import numpy as np

from gato.inference.chunk import Piece, lengths, pack, rounded, used
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.vocabulary import Vocabulary

SPEC = EpisodeSpec.of(
    {"image": LeafSpec("image", (16, 32, 3)), "words": LeafSpec("text")}, LeafSpec("discrete", values=3)
)
TOKENIZER = SequenceTokenizer(Vocabulary(2048), None, Layout())
WORDS = [np.array([5, 6, 7]), np.array([8]), np.array([], np.int64)]


def observed(seed=0):
    images = np.random.default_rng(seed).integers(256, size=(3, 16, 32, 3), dtype=np.uint8)
    images[2] = images[0]
    return TOKENIZER.tokenize({"image": images, "words": WORDS}, None, SPEC)


def test_each_row_holds_its_pieces_one_after_the_other():
    sequence = observed()
    prefix, actions = Piece.of_timesteps(sequence), Piece.of_actions(np.array([[1], [2], [0]], np.int32))
    tokens, valid = pack([actions.take(np.array([True, False, True])), prefix], 3, 8, padding=99)
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


def test_equal_patches_are_stored_once_in_few_sizes():
    prefix = Piece.of_timesteps(observed())
    tokens, _ = pack([prefix], 3, 6, padding=0)
    assert len(tokens["patches"]) == 64
    assert tokens["patch_index"][0, :2].tolist() == tokens["patch_index"][2, :2].tolist()
    assert len(np.unique(tokens["patch_index"][tokens["patch_index"] >= 0])) == 4
    assert len(pack([prefix], 3, 6, padding=0, patch_capacity=100)[0]["patches"]) == 100
    many = [Piece.of_timesteps(observed(seed)) for seed in range(20)]
    assert len(pack(many, 3, 128, padding=0)[0]["patches"]) == 256


def test_rows_that_stay_keep_their_tokens_and_patches():
    prefix = Piece.of_timesteps(observed())
    both, _ = pack([prefix], 3, 6, padding=0)
    kept, valid = pack([prefix.keep(np.array([1, 2]), 3)], 2, 6, padding=0)
    np.testing.assert_array_equal(kept["ids"], both["ids"][1:])
    np.testing.assert_array_equal(
        kept["patches"][kept["patch_index"][:, :2]], both["patches"][both["patch_index"][1:, :2]]
    )
    assert valid.tolist() == [4, 3]


def test_lengths_and_shapes():
    prefix = Piece.of_timesteps(observed())
    assert lengths([prefix, prefix], 3).tolist() == [12, 8, 6]
    assert (rounded(17, ragged=True), rounded(32, ragged=True), rounded(17, ragged=False)) == (32, 32, 17)


def test_patch_arrays_are_left_out_where_there_is_no_patch():
    piece = Piece.of_actions(np.zeros((2, 3), np.int32))
    assert set(used(pack([piece], 2, 3, padding=0)[0])) == {"ids", "local_position"}
    assert "patches" in used(pack([Piece.of_timesteps(observed())], 3, 6, padding=0)[0])
