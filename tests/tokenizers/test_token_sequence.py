from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.token_sequence import TokenSequence, concatenate
from gato.tokenizers.vocabulary import Vocabulary

SPEC = EpisodeSpec.of(
    {"eye": LeafSpec("image", (16, 32, 3)), "task": LeafSpec("text")}, LeafSpec("discrete", (2,), values=4)
)
TOKENIZER = SequenceTokenizer(Vocabulary(2048), None, Layout())


def _sequence(lengths: list[int]) -> TokenSequence:
    rng = np.random.default_rng(len(lengths))
    steps = len(lengths)
    observations: dict[str, Any] = {
        "eye": rng.integers(0, 256, (steps, 16, 32, 3), np.uint8),
        "task": [rng.integers(0, 2048, n) for n in lengths],
    }
    return TOKENIZER.tokenize(observations, {"action": rng.integers(0, 4, (steps, 2))}, SPEC)


def _check(sequence: TokenSequence) -> None:
    """What holds of every TokenSequence."""
    n, starts = len(sequence), sequence.timestep_starts
    for name in ("loss_weight", "local_position", "timestep", "kinds", "patch_index"):
        assert len(getattr(sequence, name)) == n, name
    assert starts[0] == 0
    assert starts[-1] == n
    np.testing.assert_array_equal(sequence.timestep, np.repeat(np.arange(len(starts) - 1), np.diff(starts)))
    used = sequence.patch_index[sequence.patch_index >= 0]
    np.testing.assert_array_equal(used, np.arange(len(sequence.patches)))
    assert len(sequence.patch_intervals) == len(sequence.patches)


def _equal(left: TokenSequence, right: TokenSequence) -> None:
    for name, value in vars(left).items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)
        assert value.dtype == getattr(right, name).dtype, name


LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(LENGTHS, st.data())
def test_slices_put_together_again_are_the_whole(lengths: list[int], data: st.DataObject) -> None:
    whole = _sequence(lengths)
    _check(whole)
    cut = data.draw(st.integers(0, len(lengths)))
    parts = [whole.slice(0, cut), whole.slice(cut, len(lengths))]
    for part in parts:
        _check(part)
    _equal(concatenate(parts), whole)
    assert len(parts[0].patches) == 2 * cut


def test_a_slice_in_the_middle() -> None:
    middle = _sequence([3, 1, 0, 2]).slice(1, 3)
    _check(middle)
    assert middle.timestep_starts.tolist() == [0, 6, 11]
    assert middle.patch_index.tolist() == [0, 1, -1, -1, -1, -1, 2, 3, -1, -1, -1]
