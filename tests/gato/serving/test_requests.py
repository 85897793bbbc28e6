"""What clients send is bounded before anything is made of it."""

from __future__ import annotations

import numpy as np
import pytest

from gato.serving.requests import LONGEST_TEXT, LONGEST_TEXTS, RequestError, read_leaves, read_prompt
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

READER = EpisodeSpec.of({"mission": LeafSpec("text")}, LeafSpec("discrete", values=5))


def prompt(missions):
    return {"observations": {"mission": missions}, "actions": {"action": np.zeros(len(missions), np.int64)}}


@pytest.mark.parametrize(("steps", "message"), [(64, None), (65, "65 texts of up to 65,536 characters")])
def test_texts_of_a_prompt_are_bounded_together(steps, message):
    # One of them is long: the array of tokens would be as wide for all.
    missions = ["x" * LONGEST_TEXT, *["go"] * (steps - 1)]
    assert LONGEST_TEXT * 64 == LONGEST_TEXTS
    if message is None:
        assert len(read_prompt(prompt(missions), READER, needs_rewards=False)) == steps
        return
    with pytest.raises(RequestError, match=message):
        read_prompt(prompt(missions), READER, needs_rewards=False)


@pytest.mark.parametrize(("key", "message"), [("", "name is empty"), (3, "must be a text, got int")])
def test_a_leaf_has_a_name(key, message):
    with pytest.raises(RequestError, match=message):
        read_leaves({"arm": {key: 0}}, "act: observation")


def test_names_of_leaves_are_bounded():
    inside = {str(i): 0 for i in range(9)}
    assert len(read_leaves({"a" * 99: {"b" * 98: inside}}, "act: observation")) == 9
    for given in ({"a" * 10_000: inside}, {"a" * 99: {"b" * 101: inside}}):
        with pytest.raises(RequestError, match="a leaf's name has at most 200 characters, got 'aaaa"):
            read_leaves(given, "act: observation")
