from __future__ import annotations

import json

import pytest

from gato.tokenizers.errors import VocabularyError
from gato.tokenizers.spec import LeafSpec
from gato.tokenizers.vocabulary import Vocabulary


def test_gatos_ids() -> None:
    vocabulary = Vocabulary()
    assert (vocabulary.text_size, vocabulary.separator) == (32000, 33024)
    assert vocabulary.legal_ids(LeafSpec("text")) == (0, 32000)
    assert vocabulary.legal_ids(LeafSpec("discrete", values=7)) == (0, 7)
    assert vocabulary.legal_ids(LeafSpec("continuous", low=-1, high=1)) == (32000, 33024)


def test_every_special_token_has_its_own_id_and_the_table_holds_them() -> None:
    vocabulary = Vocabulary(2048, ("return", "reward"))
    specials = [vocabulary.separator, vocabulary.padding, vocabulary.begin, vocabulary.end]
    specials += [vocabulary.special("return"), vocabulary.special("reward")]
    assert specials == list(range(2048 + 1024, vocabulary.size))
    assert vocabulary.table_size % 128 == 0
    assert 0 <= vocabulary.table_size - vocabulary.size < 128


def test_a_companded_leaf_with_a_range_uses_the_bins_that_it_reaches() -> None:
    vocabulary = Vocabulary()
    # Gato spec, section 1: F(1) = 0.4547, so [-1, 1] uses bins 279..744.
    assert vocabulary.legal_ids(LeafSpec("continuous", low=-1, high=1), companded=True) == (32279, 32745)
    unbounded = LeafSpec("continuous", (2,), low=(0, float("-inf")), high=(float("inf"), 1))
    assert vocabulary.legal_ids(unbounded, companded=True) == (32000, 33024)
    assert vocabulary.legal_ids(LeafSpec("continuous"), companded=True) == (32000, 33024)


def test_what_cannot_be_held_is_refused() -> None:
    with pytest.raises(VocabularyError, match="1024"):
        Vocabulary(1023)
    with pytest.raises(VocabularyError, match="1025 values"):
        Vocabulary().legal_ids(LeafSpec("discrete", values=1025))
    assert Vocabulary().legal_ids(LeafSpec("discrete", values=1024)) == (0, 1024)
    with pytest.raises(VocabularyError, match="image"):
        Vocabulary().legal_ids(LeafSpec("image", (16, 16, 3)))
    with pytest.raises(VocabularyError, match="twice: padding"):
        Vocabulary(extra=("padding",))
    with pytest.raises(VocabularyError, match="no special token 'reward'"):
        Vocabulary().special("reward")


def test_json_and_hash() -> None:
    vocabulary = Vocabulary(4096, ("a", "b"))
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    others = [Vocabulary(4097, ("a", "b")), Vocabulary(4096, ("b", "a")), Vocabulary(4096)]
    assert len({v.hash for v in (vocabulary, *others)}) == 4
    assert vocabulary.hash == Vocabulary(4096, ("a", "b")).hash
