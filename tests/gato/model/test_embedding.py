"""Positions of patches, local and action positions, and the initial rows of the continuous bins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model.embedding import Embedding
from gato.model.patches import PatchEncoder
from gato.model.presets import preset
from gato.model.smooth import fourier_rows
from gato.model.transformer import init_params
from gato.tokenizers.image import evaluation_table, patch_intervals

CONFIG = preset("tiny")


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))["params"]["embedding"]


def embed(params, train=False, seed=0, config=CONFIG, **fields):
    tokens = {name: jnp.asarray(value) for name, value in fields.items()}
    rngs = {"position": jax.random.key(seed)} if train else None
    apply = jax.jit(lambda params, tokens: Embedding(config).apply({"params": params}, tokens, train, rngs=rngs))
    return np.asarray(apply(params, tokens))


def patch_position(params, intervals, train, seed=0):
    """Recovers the row and column of the tables that were added to each patch."""
    count = len(intervals)
    marked = {
        **params,
        "patch_rows": jnp.zeros_like(params["patch_rows"]).at[:, 0].set(jnp.arange(128.0)),
        "patch_columns": jnp.zeros_like(params["patch_columns"]).at[:, 1].set(jnp.arange(128.0)),
    }
    fields = {
        "ids": np.zeros((1, count), np.int32),
        "local_position": np.full((1, count), -1, np.int16),
        "patch_index": np.zeros((1, count), np.int32),
        "patch_intervals": np.asarray(intervals, np.int16)[None],
        "patches": np.zeros((1, 16, 16, 3), np.uint8),
    }
    plain = {name: jnp.zeros_like(value) if "patch_" in name else value for name, value in params.items()}
    difference = embed(marked, train, seed, **fields) - embed(plain, train, seed, **fields)
    return (difference[0, :, :2] / CONFIG.width**0.5).round().astype(int)


@pytest.mark.parametrize("size", [(80, 64), (48, 224)])
def test_evaluation_takes_the_rounded_mean(params, size):
    intervals = patch_intervals(*size)
    rows, columns = size[0] // 16, size[1] // 16
    want = [
        (
            min(127, int(np.floor((row + 0.5) / rows * 128 + 0.5))),
            min(127, int(np.floor((column + 0.5) / columns * 128 + 0.5))),
        )
        for row in range(rows)
        for column in range(columns)
    ]
    np.testing.assert_array_equal(patch_position(params, intervals, train=False), want)


def test_training_samples_the_interval_uniformly(params):
    intervals = np.tile([[32, 64, 51, 77]], (4000, 1))
    drawn = patch_position(params, intervals, train=True)
    for axis, (start, stop) in enumerate(((32, 64), (51, 77))):
        assert set(drawn[:, axis]) == set(range(start, stop))
        counts = np.bincount(drawn[:, axis])[start:stop]
        assert counts.min() > 0.5 * 4000 / (stop - start)
        assert counts.max() < 1.6 * 4000 / (stop - start)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1, "row and column are drawn apart"
    assert (patch_position(params, intervals, train=True, seed=1) != drawn).any()


def test_local_and_action_positions(params):
    fields = {"ids": np.full((1, 5), 7, np.int32)}
    bare = embed(params, local_position=np.full((1, 5), -1), **fields)[0]
    scale = CONFIG.width**0.5
    np.testing.assert_allclose(bare, np.tile(params["table"][7] * scale, (5, 1)), atol=1e-5)
    added = embed(params, local_position=np.asarray([[0, 1, 511, -2, -1]]), **fields)[0] - bare
    local, action = params["local_positions"], params["action_position"][0]
    want = jnp.stack([local[0], local[1], local[511], action, jnp.zeros_like(action)]) * scale
    np.testing.assert_allclose(added, want, atol=1e-5)


def test_patches_replace_the_id_and_are_shared_by_index(params):
    patches = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    fields = {
        "local_position": np.full((1, 3), -1),
        "patch_intervals": np.tile([0, 64, 64, 128], (1, 3, 1)),
        "patch_index": np.asarray([[1, -1, 1]]),
        "patches": patches,
    }
    first = embed(params, ids=np.asarray([[1, 2, 3]]), **fields)[0]
    np.testing.assert_allclose(first[0], first[2], atol=1e-6)
    vector = jax.jit(PatchEncoder(CONFIG).apply)({"params": params["patches"]}, patches)[1]
    scale = CONFIG.width**0.5
    np.testing.assert_allclose(
        first[0], vector + (params["patch_rows"][32] + params["patch_columns"][96]) * scale, atol=1e-4
    )
    np.testing.assert_allclose(first[1], params["table"][2] * scale, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "gato_79m"])
def test_patch_vectors_are_of_order_one(name):
    config = preset(name)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    vectors = jax.jit(PatchEncoder(config).init_with_output)(jax.random.key(0), pixels)[0]
    assert vectors.shape == (4, config.width)
    assert 0.2 < vectors.std() < 3


def test_smooth_rows_are_similar_to_their_neighbours_and_of_the_right_variance():
    rows = np.asarray(fourier_rows(jax.random.key(0), 1024, 512, deviation=0.05))
    assert rows.std() == pytest.approx(0.05, rel=0.03)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    by_distance = [np.diagonal(similarity, n).mean() for n in (1, 4, 16, 64, 256)]
    assert by_distance[0] > 0.95
    assert np.all(np.diff(by_distance) < 0)
    assert by_distance[-1] < 0.35
    assert np.sort(similarity, axis=1)[:, -2].max() < 0.999, "no two bins are the same"


def test_only_the_bins_start_smooth(params):
    table = np.asarray(params["table"])
    start = CONFIG.continuous_start

    def neighbours(rows):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows[1:] * rows[:-1]).sum(axis=1).mean()

    assert neighbours(table[start : start + 1024]) > 0.9
    assert abs(neighbours(table[:start])) < 0.05
    assert table[:start].std() == pytest.approx(CONFIG.width**-0.5, rel=0.03)
    assert table[start : start + 1024].std() == pytest.approx(CONFIG.width**-0.5, rel=0.15)
    plain = np.asarray(jax.random.normal(jax.random.key(0), (1024, CONFIG.width)))
    assert abs(neighbours(plain)) < 0.05


def test_evaluation_agrees_with_the_tokenizer(params):
    for side in (1, 3, 14, 128):
        intervals = patch_intervals(16 * side, 16)
        expected = evaluation_table()[intervals[:, ::2], intervals[:, 1::2]]
        np.testing.assert_array_equal(patch_position(params, intervals, train=False), expected)
