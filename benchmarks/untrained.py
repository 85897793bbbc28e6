"""An agent with random weights: how fast it acts does not depend on what it learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from gato.inference.agent import Agent
from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta


def untrained_agent(name: str, sources: Mapping[str, SourceMeta], length: int = 1024, **changes: Any) -> Agent:
    """Of a preset with ``changes``, which knows these sources; ``length``: tokens of a training row."""
    text, recipe = TextTokenizer.default(), get_recipe("gato")
    vocabulary = Vocabulary(text.size)
    config = preset(name, vocabulary, **changes)
    meta = CheckpointMeta(
        config, vocabulary, text.model_bytes, recipe.name, recipe.layout, sources=dict(sources), length=length
    )
    return Agent(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)), meta)
