"""Named network shapes, and how many parameters each has.

name        width  layers  heads x size  hidden  parameters  meant for
tiny           32       2        2 x 16     128      0.2 M   tests: compiles and trains in seconds
quickstart    128       3        4 x 32     512      1.1 M   two CPU cores, rows of 128 tokens, a small vocabulary
gato_79m      768       8       24 x 32    3072       79 M   the paper's smallest (Reed et al. 2022, table 5)
gato_364m    1536      12      12 x 128    6144      364 M   the paper's few-shot model
gato_1_2b    2048      24      16 x 128    8192     1.18 B   the paper's main model
gato_7b      4096      36      32 x 128   16384      6.8 B   ours: the same shape, larger; not in the paper
"""

from __future__ import annotations

import math
from typing import Any

import jax

from gato.model.config import ModelConfig, ModelError, PatchConfig
from gato.tokenizers.errors import suggest
from gato.tokenizers.vocabulary import Vocabulary

_SMALL_PATCH = PatchConfig(width=64, kernel=4, stride=4, pool=4)

PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        width=32,
        layers=2,
        heads=2,
        head_dim=16,
        hidden=128,
        position="rope",
        patch=_SMALL_PATCH,
        scan_layers=False,
        vocabulary_size=3_200,
        continuous_start=2_048,
    ),
    "quickstart": ModelConfig(
        width=128,
        layers=3,
        heads=4,
        head_dim=32,
        hidden=512,
        patch=_SMALL_PATCH,
        scan_layers=False,
        vocabulary_size=3_200,
        continuous_start=2_048,
    ),
    "gato_79m": ModelConfig(width=768, layers=8, heads=24, head_dim=32, hidden=3072, stochastic_depth=0.1),
    "gato_364m": ModelConfig(width=1536, layers=12, heads=12, head_dim=128, hidden=6144, stochastic_depth=0.1),
    "gato_1_2b": ModelConfig(width=2048, layers=24, heads=16, head_dim=128, hidden=8192, stochastic_depth=0.1),
    "gato_7b": ModelConfig(width=4096, layers=36, heads=32, head_dim=128, hidden=16384, stochastic_depth=0.1),
}


def preset(name: str, vocabulary: Vocabulary | None = None, **overrides: Any) -> ModelConfig:
    """The named configuration, its embedding table fitted to `vocabulary`, with single fields changed.

    Raises `ModelError` with a suggestion for an unknown name or field.
    """
    if name not in PRESETS:
        raise ModelError(f"unknown preset {name!r}; {suggest(name, PRESETS)}")
    if vocabulary is not None:
        table = {
            "vocabulary_size": vocabulary.table_size,
            "continuous_start": vocabulary.text_size,
            "continuous_bins": vocabulary.bins,
        }
        overrides = table | overrides
    return PRESETS[name].replace(**overrides)


def count_parameters(name: str | ModelConfig) -> int:
    """Number of parameters of a preset or of a configuration; nothing is allocated."""
    from gato.model.transformer import abstract_params  # here, so that reading a preset does not import flax

    config = preset(name) if isinstance(name, str) else name
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))
