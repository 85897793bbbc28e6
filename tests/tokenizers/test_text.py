from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gato.tokenizers.corpus import stdlib_documents
from gato.tokenizers.errors import GatoError, SpecError, VocabularyError
from gato.tokenizers.text import DEFAULT_MODEL, DEFAULT_SIZE, TextTokenizer, train

# Everything but lone surrogates, which UTF-8 cannot hold, and U+2581, with which SentencePiece writes a space.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))


@pytest.fixture(scope="module")
def default() -> TextTokenizer:
    return TextTokenizer.default()


@pytest.fixture(scope="module")
def small_model() -> bytes:
    return train(stdlib_documents()[::10], 2048)


def test_the_shipped_model_has_gatos_size(default: TextTokenizer) -> None:
    assert default.size == DEFAULT_SIZE == 32000
    assert DEFAULT_MODEL.stat().st_size < 1_000_000
    assert TextTokenizer.default() is default


@settings(max_examples=300)
@given(TEXT)
@example("")
@example("  two  spaces, a tab\t, \r\n newlines\n\n\x00 and NUL ")
@example("<unk><s></s><0x41><pad>")
@example("\ufeff\u200b\u0301e\u0301 \U0001f9d1\u200d\U0001f680 漢字 ﬁ ①")
def test_any_text_round_trips_exactly(default: TextTokenizer, text: str) -> None:
    ids = default.encode(text)
    assert ids.dtype == np.int32
    assert default.decode(ids) == text
    assert 0 not in ids  # the unknown piece: byte fallback leaves nothing unknown


@settings(max_examples=100)
@given(TEXT)
def test_any_text_round_trips_through_a_small_model(small_model: bytes, text: str) -> None:
    tokenizer = TextTokenizer(small_model)
    assert tokenizer.size == 2048
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_u2581_comes_back_as_a_space(default: TextTokenizer) -> None:
    assert default.decode(default.encode("a\u2581b")) == "a b"


def test_a_lone_surrogate_is_a_clear_error(default: TextTokenizer) -> None:
    with pytest.raises(SpecError, match=r"observation 'mission': lone surrogate '\\ud800' at character 2"):
        default.encode("go\ud800", "observation 'mission'")


def test_documentation_is_compressed(default: TextTokenizer) -> None:
    text = "Return the number of items in the list, or raise a ValueError if the argument is not a sequence."
    assert len(default.encode(text)) < len(text) / 3.5


def test_batches_and_cache(default: TextTokenizer) -> None:
    texts = ["go to the red ball", "pick up a key", "go to the red ball", "x" * 5000]
    batch = default.encode_batch(texts)
    assert [default.decode(ids) for ids in batch] == texts
    assert batch[0] is batch[2]
    assert not batch[0].flags.writeable


def test_training_twice_gives_the_same_bytes(small_model: bytes) -> None:
    assert train(stdlib_documents()[::10], 2048) == small_model
    assert TextTokenizer(small_model).hash != TextTokenizer(train(stdlib_documents()[::10], 2047)).hash


@pytest.mark.slow
def test_this_python_can_build_a_default_model() -> None:
    from gato.tokenizers.text import build_default

    model = build_default()
    assert TextTokenizer(model).size == 32000
    assert build_default() == model


def test_the_corpus_is_sorted_prose_without_repetitions() -> None:
    documents = stdlib_documents()
    assert documents == sorted(set(documents))
    assert sum(map(len, documents)) > 1_000_000
    assert stdlib_documents() is not documents  # a caller may change its list


def test_what_cannot_be_trained_or_loaded() -> None:
    with pytest.raises(VocabularyError, match="at least 1,024"):
        train(["a"], 1000)
    with pytest.raises(
        VocabularyError, match=r"cannot train 5000 pieces: these texts give \d\d\d, and at least 1,024 are"
    ):
        train(["too little text"], 5000)
    words = np.random.default_rng(0).integers(10**6, size=3000)
    with pytest.raises(VocabularyError, match=r"these texts give ([0-9,]+) at most; ask for fewer") as error:
        train([f"{word:x}" for word in words], 90_000)
    most = re.search("give ([0-9,]+) at", str(error.value))
    assert most
    model = TextTokenizer(train([f"{word:x}" for word in words], int(most[1].replace(",", ""))))
    assert f"{model.size:,}" == most[1]
    with pytest.raises(VocabularyError, match=r"the characters of these texts alone need 5,2[0-9]{2}; ask for more"):
        train([chr(0x4E00 + number) for number in range(5000)], 1200)
    with pytest.raises(VocabularyError, match="there is no text"):
        train([], 2000)
    with pytest.raises(VocabularyError, match="no SentencePiece model"):
        TextTokenizer(b"nonsense")
    with pytest.raises(GatoError, match=r"missing\.model"):
        TextTokenizer.from_file("missing.model")
    with pytest.raises(VocabularyError, match=r"^\S+test_text\.py: is no SentencePiece model; `gato data train-tok"):
        TextTokenizer.from_file(__file__)


def test_ids_beyond_the_model_are_refused(default: TextTokenizer) -> None:
    for bad in (32000, -1):
        with pytest.raises(VocabularyError, match=f"id {bad}"):
            default.decode([5, bad])


def test_pickle(default: TextTokenizer) -> None:
    assert pickle.loads(pickle.dumps(default)).encode("abc").tolist() == default.encode("abc").tolist()
