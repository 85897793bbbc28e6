"""A random packed batch, and the tiny preset in both position schemes."""

from __future__ import annotations

import numpy as np
import pytest

from gato.model.config import ModelConfig
from gato.model.presets import preset


@pytest.fixture
def make_batch():
    def make(config: ModelConfig, rows=2, length=24, segments=(9, 15), patches=3, seed=0):
        """Rows of the given segment lengths, with some patches and every code of local position."""
        rng = np.random.default_rng(seed)
        segment_L = np.repeat(np.arange(1, len(segments) + 1), segments)
        position_L = np.concatenate([np.arange(n) for n in segments])
        starts = rng.integers(0, 64, (rows, length, 2))
        stops = starts + rng.integers(1, 65, (rows, length, 2))
        return {
            "ids": rng.integers(0, config.vocabulary_size, (rows, length)).astype(np.int32),
            "local_position": rng.integers(-2, 30, (rows, length)).astype(np.int16),
            "segment_ids": np.tile(segment_L, (rows, 1)).astype(np.int32),
            "positions": np.tile(position_L, (rows, 1)).astype(np.int32),
            "patch_index": rng.integers(-3, patches, (rows, length)).clip(-1).astype(np.int32),
            "patch_intervals": np.stack([starts, stops], -1).reshape(rows, length, 4).astype(np.int16),
            "patches": rng.integers(0, 256, (patches, 16, 16, 3), dtype=np.uint8),
        }

    return make


@pytest.fixture
def slice_batch():
    def take(batch, rows=slice(None), tokens=slice(None)):
        return {name: value if name == "patches" else value[rows, tokens] for name, value in batch.items()}

    return take


@pytest.fixture(params=["rope", "transformer_xl"])
def config(request) -> ModelConfig:
    """Blocks of 10 queries, so that rows of 24 tokens have three, the last of another size."""
    return preset("tiny", layers=3, position=request.param, attention_block=10)
