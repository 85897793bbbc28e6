"""What a leaf declares, and the order of nested keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.tokenizers.errors import SpecError
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, flatten, unflatten
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

KEYS = st.text("aZ_9é", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers(0, 99), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=4), max_leaves=12
)


def walk(tree: Any, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], int]]:
    if not isinstance(tree, dict):
        return [(keys, tree)]
    return [leaf for key in tree for leaf in walk(tree[key], (*keys, key))]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=5))
def test_the_tokens_of_a_tree_are_in_the_order_of_its_sorted_keys(tree: dict[str, Any]) -> None:
    """Paths compare as tuples of keys, not as strings with dots; the order of writing does not matter."""
    leaves = dict(flatten(tree))
    assert unflatten(leaves) == tree
    tokenizer = SequenceTokenizer(Vocabulary(32000), TextTokenizer.default(), Layout())
    spec = EpisodeSpec.of(
        unflatten({path: LeafSpec("discrete", values=100) for path in reversed(leaves)}), LeafSpec("discrete", values=2)
    )
    observations = {path: np.array([value]) for path, value in leaves.items()}
    tokens = tokenizer.tokenize(observations, {"action": np.zeros(1, int)}, spec)
    assert tokens.ids[:-2].tolist() == [value for _, value in sorted(walk(tree))]


@pytest.mark.parametrize(
    "bounds", [(-1, 2), (np.float32(-1), np.float32(2)), (np.array(-1.0), np.array(2.0)), ([-1], [2])]
)
def test_one_bound_serves_every_scalar(bounds: Any) -> None:
    leaf = LeafSpec("continuous", (2, 2), low=bounds[0], high=bounds[1])
    low, high = leaf.bounds("arm")
    assert low.tolist() == [[-1, -1], [-1, -1]]
    assert high.tolist() == [[2, 2], [2, 2]]
    assert LeafSpec.from_json(leaf.to_json()) == leaf


def test_bounds_of_another_size_are_refused() -> None:
    with pytest.raises(SpecError, match=r"low has 2 values, a leaf of shape \(3,\) needs one or 3"):
        LeafSpec("continuous", (3,), low=(-1, -1), high=(1, 1))
