"""Decoding with a cache is the full forward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model.cache import append, init_cache
from gato.model.config import ModelError
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params


@pytest.fixture
def model(config):
    """Both position schemes."""
    return GatoModel(config)


def start(model, make_batch, capacity):
    batch = make_batch(model.config, segments=(24,))
    params = init_params(model.config, jax.random.key(0))
    params["params"]["last_block"] = jax.tree.map(lambda x: x + 0.1, params["params"]["last_block"])
    full = np.asarray(jax.jit(model.apply)(params, batch))
    extend = jax.jit(lambda tokens, cache, valid: model.apply(params, tokens, cache, valid, method="extend"))
    return batch, full, extend, init_cache(model.config, 2, capacity, params)


def test_chunks_equal_the_full_forward(model, make_batch, slice_batch):
    batch, full, extend, cache = start(model, make_batch, capacity=30)
    for begin, end in ((0, 11), (11, 12), (12, 23), (23, 24)):
        hidden, cache = extend(slice_batch(batch, tokens=slice(begin, end)), cache, jnp.full(2, end - begin))
        np.testing.assert_allclose(hidden, full[:, begin:end], atol=1e-5)
    np.testing.assert_array_equal(cache.length, [24, 24])


def test_ragged_rows_fill_the_cache_to_its_last_slot(model, make_batch, slice_batch):
    """Rows advance by different amounts; chunks reach beyond the capacity, but no valid token does."""
    batch, full, extend, cache = start(model, make_batch, capacity=24)
    at = np.zeros(2, int)
    for steps in ((5, 2), (0, 6), (6, 1), (6, 6), (6, 3), (1, 6)):
        index = np.minimum(at[:, None] + np.arange(6), 23)
        tokens = {
            name: value if name == "patches" else value[np.arange(2)[:, None], index] for name, value in batch.items()
        }
        hidden, cache = extend(tokens, cache, jnp.asarray(steps, jnp.int32))
        for row, count in enumerate(steps):
            np.testing.assert_allclose(hidden[row, :count], full[row, at[row] : at[row] + count], atol=1e-5)
        at += steps
    np.testing.assert_array_equal(at, [24, 24])


def test_rewinding_forgets(model, make_batch, slice_batch):
    batch, full, extend, cache = start(model, make_batch, capacity=24)
    other = make_batch(model.config, segments=(24,), seed=5) | {"patches": batch["patches"]}
    _, cache = extend(slice_batch(batch, tokens=slice(0, 8)), cache, jnp.asarray([8, 8]))
    _, cache = extend(slice_batch(other, tokens=slice(8, 20)), cache, jnp.asarray([12, 3]))
    cache = cache.replace(length=jnp.asarray([8, 8]))
    hidden, _ = extend(slice_batch(batch, tokens=slice(8, 24)), cache, jnp.asarray([16, 16]))
    np.testing.assert_allclose(hidden, full[:, 8:], atol=1e-5)


def test_append_changes_only_the_new_slots():
    cache = jnp.arange(2 * 1 * 6 * 1, dtype=jnp.float32).reshape(2, 1, 1, 6)
    new = -jnp.ones((2, 1, 4, 1)) * jnp.arange(1.0, 5)[:, None]
    got = append(cache, new, jnp.asarray([1, 5]), jnp.asarray([3, 1]))
    np.testing.assert_array_equal(got[:, 0, 0], [[0, -1, -2, -3, 4, 5], [6, 7, 8, 9, 10, -1]])
    round_it = append(cache, new, jnp.asarray([4, 11]), jnp.asarray([4, 0]))
    np.testing.assert_array_equal(round_it[:, 0, 0], [[-3, -4, 2, 3, -1, -2], [6, 7, 8, 9, 10, 11]])


@pytest.mark.parametrize("chunks", [[1] * 24, [5, 3, 5, 5, 1, 5], [2, 4, 4, 4, 4, 4, 2]])
def test_a_token_of_a_ring_sees_its_span_whatever_the_chunks(model, make_batch, slice_batch, chunks):
    """Against a ring that is as long as all tokens, and so never overwrites any; capacity 8 + 5 - 1."""
    batch, _, _, _ = start(model, make_batch, capacity=24)
    params = init_params(model.config, jax.random.key(0))
    extend = jax.jit(lambda tokens, cache, valid: model.apply(params, tokens, cache, valid, method="extend"))
    want, _ = extend(batch, init_cache(model.config, 2, 31, params, span=8), jnp.full(2, 24))
    ring, begin = init_cache(model.config, 2, 12, params, span=8), 0
    for size in chunks:
        hidden, ring = extend(slice_batch(batch, tokens=slice(begin, begin + size)), ring, jnp.full(2, size))
        np.testing.assert_allclose(hidden, want[:, begin : begin + size], atol=1e-5)
        begin += size
    np.testing.assert_array_equal(ring.length, [24, 24])


def test_mistakes_are_named(make_batch):
    config = preset("tiny", position="transformer_xl")
    with pytest.raises(ModelError, match="params=params"):
        init_cache(config, 1, 8)
    config = preset("tiny")
    params, batch = init_params(config, jax.random.key(0)), make_batch(config)
    with pytest.raises(ModelError, match="24 tokens in a cache of capacity 8"):
        GatoModel(config).apply(params, batch, init_cache(config, 2, 8), jnp.zeros(2, jnp.int32), method="extend")
    with pytest.raises(ModelError, match="9 tokens in a cache of capacity 16 whose tokens see 9 each"):
        tokens = {name: value if name == "patches" else value[:, :9] for name, value in batch.items()}
        GatoModel(config).apply(
            params, tokens, init_cache(config, 2, 16, span=9), jnp.zeros(2, jnp.int32), method="extend"
        )
    with pytest.raises(ModelError, match="unrolled"):
        scanned = config.replace(scan_layers=True)
        GatoModel(scanned).apply(
            init_params(scanned, jax.random.key(0)), batch, init_cache(config, 2, 24), jnp.zeros(2), method="extend"
        )
