from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from gato.inference.history import History
from gato.model.transformer import GatoModel
from gato.tokenizers.errors import SpecError

SOURCE = "captions/rooms"
PADDED = 16


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(256, size=(5, 16, 32, 3), dtype=np.uint8)


def last_hidden(agent, image, written):
    """The state behind an image and some text ids, from one plain forward pass."""
    prefix = agent.tokenizer.tokenize({"image": image[None]}, None, agent.meta.sources[SOURCE].spec)
    history = History(1, agent.meta.vocabulary.padding)
    history.append(np.zeros(len(prefix), np.int32), prefix)
    history.append_ids(np.zeros(1, np.int32), np.array([written], np.int32))
    length = len(prefix) + len(written)
    batch, _ = history.chunk(np.zeros(1, np.int32), np.zeros(1, np.int32), PADDED)
    batch["segment_ids"] = (np.arange(PADDED) < length).astype(np.int32)[None]
    batch["positions"] = np.arange(PADDED)[None]
    return forward(agent.meta.model, agent.params, batch)[0, length - 1]


@functools.partial(jax.jit, static_argnames="config")
def forward(config, params, batch):
    return GatoModel(config).apply(params, batch)


def test_greedy_writing_is_a_full_forward(make_agent, images):
    agent = make_agent()
    end, pieces = agent.meta.vocabulary.end, agent.tokenizer.text.size
    texts = agent.generate(SOURCE, {"image": images}, temperature=0.0, limit=4, begin="a red")
    for row in (0, 3):
        written = agent.tokenizer.text.encode("a red").tolist()
        for _ in range(4):
            hidden = np.asarray(last_hidden(agent, images[row], written))
            logits = np.asarray(agent.params["params"]["embedding"]["table"]) @ hidden
            logits[pieces:end] = -np.inf
            chosen = int(np.argmax(logits[: end + 1]))
            if chosen == end:
                break
            written.append(chosen)
        assert texts[row] == agent.tokenizer.text.decode(written)


def test_texts_begin_as_asked_differ_by_seed_and_end_at_the_limit(make_agent, images):
    agent = make_agent()
    first = agent.generate(SOURCE, {"image": images}, begin="a ball", limit=5)
    assert len(first) == 5
    assert all(text.startswith("a ball") for text in first)
    assert agent.generate(SOURCE, {"image": images}, begin="a ball", limit=5) != first
    assert agent.generate(SOURCE, {"image": images[:0]}) == []


def test_the_end_token_ends_a_text(make_agent, images):
    agent = make_agent()
    end = agent.meta.vocabulary.end
    table = agent.params["params"]["embedding"]["table"]
    decided = table.at[end].set(100 * last_hidden(agent, images[0], []))
    agent.params = {
        "params": {**agent.params["params"], "embedding": {**agent.params["params"]["embedding"], "table": decided}}
    }
    assert agent.generate(SOURCE, {"image": images[:1]}, temperature=0.0, limit=4) == [""]


def test_what_cannot_be_written_is_said(make_agent, images):
    agent = make_agent()
    with pytest.raises(SpecError, match="last leaf is text and not given"):
        agent.generate(SOURCE, {"image": images, "text": ["a"] * 5})
    with pytest.raises(SpecError, match="document"):
        agent.generate("arm/reach", {})
    with pytest.raises(SpecError, match="image"):
        agent.generate(SOURCE, {"image": images[:, :8]})
