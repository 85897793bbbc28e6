"""Streamed text is the text of `generate`, never changes once it was shown, and ends where it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.inference.chat import Chat
from gato.inference.stream import PieceDecoder
from gato.tokenizers.errors import SpecError
from gato.tokenizers.text import TextTokenizer

SOURCE = "captions/rooms"
TEXT = TextTokenizer.default()
NOTHING = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(256, size=(16, 32, 3), dtype=np.uint8)


def shown(ids, stop=(), first=NOTHING, calls=1):
    """The pieces that come out when ``calls`` ids at a time go in, and whether a stop string came."""
    decoder, pieces, stopped = PieceDecoder(TEXT, first, stop), [], False
    for start in range(0, len(ids), calls):
        decoder.ids += list(map(int, ids[start : start + calls]))
        piece, stopped = decoder.next(final=start + calls >= len(ids))
        pieces.append(piece)
        if stopped:
            break
    return pieces, stopped


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_pieces_are_the_text_of_generate(make_agent, image, temperature):
    whole = make_agent().generate(SOURCE, {"image": image[None]}, begin="a red", limit=20, temperature=temperature)
    stream = make_agent().stream(SOURCE, {"image": image}, begin="a red", limit=20, temperature=temperature)
    assert stream.reason is None
    pieces = list(stream)
    assert "a red" + "".join(pieces) == whole[0]
    assert stream.text == "".join(pieces)
    assert stream.reason == "limit"
    assert len(pieces) > 1


def test_a_text_ends_at_its_end_token(make_agent, image):
    agent = make_agent()
    # The end token made as likely as 2,000 pieces: it comes after some tokens, in the middle of a compiled call.
    table, end = agent.params["params"]["embedding"]["table"], agent.meta.vocabulary.end
    changed = {**agent.params["params"]["embedding"], "table": table.at[end].multiply(6.0)}
    params = {"params": {**agent.params["params"], "embedding": changed}}
    lengths = set()
    for seed in range(6):
        texts = []
        for streamed in (True, False):
            other = type(agent)(params, agent.meta, seed)
            if streamed:
                stream = other.stream(SOURCE, {"image": image}, limit=40)
                texts.append("".join(stream))
            else:
                texts += other.generate(SOURCE, {"image": image[None]}, limit=40)
        assert texts[0] == texts[1]
        if stream.reason == "end":
            lengths.add(len(TEXT.encode(texts[0])))
    assert len(lengths) >= 2


def test_a_stop_string_ends_the_text_and_is_cut_off(make_agent, image):
    whole = "".join(make_agent().stream(SOURCE, {"image": image}, limit=24))
    stop = whole[20:26]
    stream = make_agent().stream(SOURCE, {"image": image}, limit=24, stop=["never there", stop])
    assert "".join(stream) == whole[: whole.index(stop)]
    assert stream.reason == "stop"


def test_the_context_ends_a_text_and_a_longer_prompt_is_refused(make_agent, image):
    agent = make_agent(length=24)
    stream = agent.stream(SOURCE, {"image": image}, begin="a red ball", limit=1000)
    written = list(stream)
    assert stream.reason == "context"
    assert len(written) > 1
    with pytest.raises(SpecError, match=r"the prompt has \d+ tokens, but a row of this network holds 24"):
        agent.stream(SOURCE, {"image": image}, begin="a red ball " * 12)


def test_a_text_of_words_alone_and_what_cannot_be_streamed(make_agent, image):
    agent = make_agent()
    assert "".join(agent.stream("text/plain", {}, begin="once upon", limit=3))
    with pytest.raises(SpecError, match="last leaf is text and not given"):
        agent.stream("arm/reach", {})
    with pytest.raises(SpecError, match="image"):
        agent.stream(SOURCE, {"image": image[:8]})


@given(text=st.text(max_size=12), calls=st.integers(1, 5))
@settings(max_examples=60)
def test_no_piece_holds_half_a_character(text, calls):
    pieces, _ = shown(TEXT.encode(text), calls=calls)
    assert "".join(pieces) == TEXT.decode(TEXT.encode(text))
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_characters_of_several_byte_pieces_come_whole():
    ids = TEXT.encode("ab\U0001f916\u1e9e\U0001f9d9!")
    assert len(ids) > 8  # the default model writes these in bytes
    pieces, _ = shown(ids)
    assert [piece for piece in pieces if piece] == ["ab", "\U0001f916", "\u1e9e", "\U0001f9d9", "!"]


def test_bytes_that_never_become_a_character_are_shown_in_the_end():
    ids = TEXT.encode("\U0001f916")[:-1]
    assert len(ids) == 3
    pieces, _ = shown(ids)
    assert "".join(pieces) == TEXT.decode(ids) == "\N{REPLACEMENT CHARACTER}" * 3
    pieces, _ = shown([*ids, *TEXT.encode(" x")])
    assert "".join(pieces) == "\N{REPLACEMENT CHARACTER}" * 3 + " x"


@given(
    text=st.text("ab.\n", max_size=30),
    stop=st.lists(st.text("ab.\n", min_size=1, max_size=4), max_size=3),
    calls=st.integers(1, 4),
)
@settings(max_examples=100)
def test_stop_strings_are_never_shown(text, stop, calls):
    pieces, stopped = shown(TEXT.encode(text), stop, calls=calls)
    # Read from the left, the first place where a stop string is complete ends the text.
    places = [text.find(s) for s in stop if s in text]
    assert stopped == bool(places)
    assert not any(s in "".join(pieces) for s in stop)
    if len(stop) == 1:
        assert "".join(pieces) == (text[: places[0]] if places else text)


def test_a_stop_string_of_the_prompt_does_not_end_the_text():
    first = TEXT.encode("User: hello\nGato:")
    pieces, stopped = shown(TEXT.encode(" hi there"), ["User:"], first)
    assert "".join(pieces) == " hi there"
    assert not stopped


def spy_on(agent):
    """The prompts that the agent will be given."""
    seen, stream = [], agent.stream

    def spy(source, document, *, begin, **options):
        seen.append(begin)
        return stream(source, document, begin=begin, **options)

    agent.stream = spy
    return seen


def test_a_chat_shows_the_agent_what_was_said(make_agent):
    agent = make_agent(length=96)
    seen = spy_on(agent)
    chat = Chat(agent, "text/plain", {}, "They talk.", limit=6, temperature=0.0)
    answer = "".join(chat.say("hello"))
    assert seen[0] == "They talk.\n\nUser: hello\n\nGato:"
    list(chat.say("and then?"))
    assert seen[1] == f"They talk.\n\nUser: hello\n\nGato: {answer.strip()}\n\nUser: and then?\n\nGato:"
    for _ in range(6):
        list(chat.say("a question that is rather long"))
    # The oldest turns went, the prompt stayed, and there is still room for the answer.
    assert seen[-1].startswith("They talk.\n\nUser: a question")
    assert seen[-1].count("User:") >= 2
    assert len(TEXT.encode(seen[-1])) + 6 <= 96
    before = seen[-1]
    with pytest.raises(SpecError, match="shorten it"):
        chat.say("word " * 200)
    # It was not said: the conversation goes on where it was, and what was answered is there once.
    list(chat.say("so?"))
    assert "word word" not in seen[-1]
    assert seen[-1].startswith(before[: before.index("User:")])
    assert before[before.rindex("User:") :] in seen[-1]
    assert seen[-1].count("Gato:") == seen[-1].count("User:")


def test_a_chat_remembers_although_an_answer_may_fill_the_row(make_agent):
    agent = make_agent(length=256)
    seen = spy_on(agent)
    chat = Chat(agent, "text/plain", {}, "They talk.", limit=256, temperature=0.0)
    next(chat.say("my name is Ada"))  # of the answer only this much is read
    chat.say("who am I?")
    assert seen[1].startswith("They talk.\n\nUser: my name is Ada")
