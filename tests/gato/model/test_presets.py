"""Sizes of the presets, and configurations that contradict themselves."""

from __future__ import annotations

import json

import pytest

from gato.model.config import ModelConfig, ModelError
from gato.model.presets import PRESETS, count_parameters, preset
from gato.tokenizers.vocabulary import Vocabulary


@pytest.mark.parametrize(("name", "millions"), [("gato_79m", 79), ("gato_364m", 364), ("gato_1_2b", 1180)])
def test_parameter_counts_of_the_paper(name, millions):
    config = preset(name, vocabulary=Vocabulary(text_size=32_000))
    assert config.position == "transformer_xl"
    assert count_parameters(config) == pytest.approx(millions * 1e6, rel=0.01)
    assert count_parameters(name) == count_parameters(config), "the preset's own table is the paper's"


def test_rope_drops_one_square_a_block():
    xl, rope = (count_parameters(preset("gato_79m", position=position)) for position in ("transformer_xl", "rope"))
    assert xl - rope == 8 * (768**2 + 2 * 768)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = preset(name, remat="full")
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_vocabulary_decides_the_table():
    vocabulary = Vocabulary(text_size=2_000)
    config = preset("tiny", vocabulary=vocabulary)
    assert config.vocabulary_size == vocabulary.table_size
    assert (config.continuous_start, config.continuous_bins) == (2_000, 1_024)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("gato_97m"), "did you mean 'gato_79m'"),
        (lambda: preset("tiny", layer=3), "did you mean 'layers'"),
        (lambda: preset("tiny", width=33), "width must be even"),
        (lambda: preset("tiny", position="alibi"), "transformer_xl, rope"),
        (lambda: preset("tiny", dropout=1.0), "probability"),
        (lambda: preset("tiny", remat="some"), "none, full, dots"),
        (lambda: preset("tiny", vocabulary_size=1_024), "ends before the continuous bins"),
        (lambda: ModelConfig.from_json({"width": 8}), "missing layers, heads"),
        (lambda: ModelConfig.from_json({"patch": {"widht": 3}}), "did you mean 'width'"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ModelError, match=message):
        call()
