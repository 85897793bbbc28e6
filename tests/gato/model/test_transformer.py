"""What the whole network must hold: causality, packing, and the same function however it is compiled."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model import relative
from gato.model.blocks import Attention, Context
from gato.model.layers import unstack_layers
from gato.model.presets import preset
from gato.model.transformer import GatoModel, abstract_params, init_params


@functools.cache
def perturbed(config):
    """Parameters away from the initial zeros and ones, so that u, v and the norms' scales matter."""

    @jax.jit
    def draw():
        leaves, structure = jax.tree.flatten(init_params(config, jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, moved)

    return draw()


def run(config, params, batch, **kwargs):
    return np.asarray(jax.jit(lambda p, b: GatoModel(config).apply(p, b, **kwargs))(params, batch))


def loss_and_gradient(config, params, batch, **kwargs):
    def loss(params):
        return jnp.sin(GatoModel(config).apply(params, batch, **kwargs)).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_trees_close(got, want, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_causality(config, make_batch):
    batch = make_batch(config, segments=(24,))
    params = perturbed(config)
    before = run(config, params, batch)
    changed = {**batch, "ids": batch["ids"].copy(), "patch_index": batch["patch_index"].copy()}
    changed["patch_index"][:, 13] = -1
    changed["ids"][:, 13] = (changed["ids"][:, 13] + 1) % config.vocabulary_size
    after = run(config, params, changed)
    np.testing.assert_array_equal(before[:, :13], after[:, :13])
    assert (np.abs(before[:, 13:] - after[:, 13:]).max(axis=-1) > 1e-4).all(), "every later token must feel the change"


def test_segments_packed_in_a_row_equal_the_segments_apart(config, make_batch, slice_batch):
    batch = make_batch(config, segments=(9, 15))
    params = perturbed(config)
    packed = run(config, params, batch)
    for part in (slice(0, 9), slice(9, 24)):
        np.testing.assert_allclose(packed[:, part], run(config, params, slice_batch(batch, tokens=part)), atol=2e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_remat_is_the_same_function(make_batch, scan):
    config = preset("tiny", layers=2, position="transformer_xl", scan_layers=scan)
    batch, params = make_batch(config), perturbed(config)
    plain, plain_gradient = loss_and_gradient(config, params, batch)
    for remat in ("dots", "full"):
        again, gradient = loss_and_gradient(config.replace(remat=remat), params, batch)
        np.testing.assert_allclose(plain, again, rtol=1e-5)
        assert_trees_close(gradient, plain_gradient, 1e-6)


def kept(config, batch):
    """Shapes of what the forward pass keeps for the backward pass, parameters included."""
    params = abstract_params(config)
    pull = jax.eval_shape(lambda p: jax.vjp(lambda p: GatoModel(config).apply(p, batch), p)[1], params)
    return [leaf.shape for leaf in jax.tree.leaves(pull)]


@pytest.mark.parametrize("scan", [False, True])
def test_what_remat_keeps(make_batch, scan):
    """With "dots" the products with weights, of them those that a gradient needs; with "full" the blocks' inputs."""
    config = preset("tiny", layers=3, hidden=224, scan_layers=scan, attention_block=10)
    batch = make_batch(config)
    none, dots, full = (kept(config.replace(remat=remat), batch) for remat in ("none", "dots", "full"))
    assert sum(map(math.prod, none)) > sum(map(math.prod, dots)) > sum(map(math.prod, full))
    tokens, half = batch["ids"].size, config.hidden // 2
    # [tokens, hidden / 2] of the gate and of the value in each block; scanned, the first two blocks' lie in one array.
    wide = [math.prod(shape) // (tokens * half) for shape in dots if shape[-2:] == (tokens, half)]
    assert sum(wide) == 2 * config.layers
    assert not [shape for shape in full if shape[-2:] == (tokens, half)]
    assert not [shape for shape in dots if shape[-2:] == (10, 10)], "no tile of scores"


def test_the_block_behind_the_loop_is_really_computed_again(make_batch):
    """The compiler may merge two equal computations, if nothing stands between them: then nothing is saved."""
    config = preset("tiny", layers=3, scan_layers=True)
    batch, params = make_batch(config), abstract_params(config)

    def barriers(remat):
        model = GatoModel(config.replace(remat=remat))
        gradient = jax.jit(jax.grad(lambda p: model.apply(p, batch).sum()))
        return gradient.lower(params).as_text().count("optimization_barrier")

    assert barriers("none") == 0
    assert barriers("full") == 1
    assert barriers("dots") == 1


def stacked_layers(variables, config):
    """The inverse of `unstack_layers`."""
    params = dict(variables["params"])
    blocks = [params.pop(f"blocks_{layer}") for layer in range(config.layers - 1)]
    return {"params": {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}}


def test_scanned_layers_equal_unrolled_layers(config, make_batch):
    batch, params = make_batch(config), perturbed(config)
    scanned = config.replace(scan_layers=True)
    stacked = stacked_layers(params, config)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda leaf: leaf.shape, abstract_params(scanned))
    assert_trees_close(unstack_layers(stacked, config), params, 0)
    loss, gradient = loss_and_gradient(config, params, batch)
    scanned_loss, scanned_gradient = loss_and_gradient(scanned, stacked, batch)
    np.testing.assert_allclose(loss, scanned_loss, rtol=1e-5)
    assert_trees_close(unstack_layers(scanned_gradient, config), gradient, 1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_initial_layers_differ_when_scanned():
    kernel = init_params(preset("tiny", layers=3, scan_layers=True), jax.random.key(0))["params"]["blocks"][
        "attention"
    ]["query"]
    assert not np.allclose(kernel[0], kernel[1])


def test_hidden_at_equals_gathering_all_hidden_states(config, make_batch):
    config = config.replace(stochastic_depth=0.4)
    batch, params = make_batch(config), perturbed(config)
    batch["patches"] = batch["patches"][None]
    index = jnp.asarray([[3, 4, 20, 24, 47, 0, 0]], jnp.int32)
    rngs = {"dropout": jax.random.key(1), "position": jax.random.key(2)}

    def loss(params, sparse):
        if sparse:
            hidden = GatoModel(config).apply(params, batch, train=True, rngs=rngs, hidden_at=index)
        else:
            hidden = GatoModel(config).apply(params, batch, train=True, rngs=rngs).reshape(-1, config.width)[index]
        return jnp.sin(hidden).sum(), hidden

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (gradient, hidden), (full_gradient, full_hidden) = step(params, True), step(params, False)
    assert hidden.shape == (1, 7, config.width)
    np.testing.assert_allclose(hidden, full_hidden, atol=1e-5)
    assert_trees_close(gradient, full_gradient, 1e-4)


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean(make_batch):
    config = preset("tiny", layers=1, stochastic_depth=0.5)
    batch = make_batch(config, rows=256, length=4, segments=(4,))
    batch = {name: value if name == "patches" else np.repeat(value[:1], 256, axis=0) for name, value in batch.items()}
    batch["patch_index"][:] = -1
    params = init_params(config, jax.random.key(0))

    def stream(rngs):
        """The residual stream before the last norm."""
        kwargs = {"train": rngs is not None, "rngs": rngs, "capture_intermediates": True, "mutable": ["intermediates"]}
        _, state = jax.jit(lambda p, b: GatoModel(config).apply(p, b, **kwargs))(params, batch)
        return np.asarray(state["intermediates"]["last_block"]["__call__"][0][0][0])

    full = stream(None)
    dropped = stream({"dropout": jax.random.key(0), "position": jax.random.key(1)})
    kinds = np.unique(dropped.round(4).reshape(256, -1), axis=0)
    assert len(kinds) == 4, "attention kept or not, times feed-forward kept or not, the same for all tokens of a row"
    x = np.asarray(GatoModel(config).apply(params, batch, method=lambda model, b: model.embedding(b, False)))
    assert any(np.allclose(kind, x[0].round(4).ravel(), atol=2e-4) for kind in kinds), "one kind is the bare embedding"
    error = np.abs(dropped.mean(axis=0) - full[0]).mean() / np.abs(full[0] - x[0]).mean()
    assert error < 0.35


def test_dropout_only_in_training(make_batch):
    config = preset("tiny", dropout=0.5)
    batch, params = make_batch(config), perturbed(preset("tiny"))
    first, second = (
        run(config, params, batch, train=True, rngs={"dropout": jax.random.key(seed), "position": jax.random.key(9)})
        for seed in (0, 1)
    )
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(run(config, params, batch), run(config.replace(dropout=0.0), params, batch))


def test_bfloat16_is_close_and_its_outputs_are_what_they_say(config, make_batch):
    batch, params = make_batch(config), perturbed(config)
    half = config.replace(dtype="bfloat16")
    exact, rough = run(config, params, batch), run(half, params, batch)
    assert rough.dtype == jnp.bfloat16
    error = np.abs(exact - rough.astype(np.float32))
    assert 0 < error.mean() < 0.03 * np.abs(exact).mean()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract_params(half)))
    logits = GatoModel(half).apply(params, rough, method="logits")
    assert logits.dtype == jnp.float32
    _, gradient = loss_and_gradient(half, params, batch)
    assert all(np.isfinite(leaf).all() and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def test_the_head_is_the_embedding_table():
    config = preset("tiny")
    params, hidden = perturbed(config), np.random.default_rng(0).normal(size=(2, 3, config.width)).astype(np.float32)
    logits = GatoModel(config).apply(params, hidden, method="logits")
    np.testing.assert_allclose(logits, hidden @ params["params"]["embedding"]["table"].T, atol=1e-4)
    some = GatoModel(config).apply(params, hidden, 100, 140, method="logits")
    np.testing.assert_allclose(some, logits[..., 100:140], atol=1e-5)


def test_initial_logits_are_of_order_one(make_batch):
    config = preset("quickstart")
    batch, params = make_batch(config), init_params(config, jax.random.key(0))
    hidden = run(config, params, batch)
    assert 0.9 < hidden.std() < 1.1
    assert 0.7 < np.asarray(GatoModel(config).apply(params, hidden, method="logits")).std() < 1.5


def test_rows_without_patches(make_batch):
    config = preset("tiny")
    batch, params = make_batch(config), perturbed(config)
    batch["patch_index"][:] = -1
    some = run(config, params, batch)
    none = run(config, params, {**batch, "patches": batch["patches"][:0]})
    absent = run(config, params, {name: value for name, value in batch.items() if "patch" not in name})
    np.testing.assert_allclose(some, none, atol=1e-5)
    np.testing.assert_allclose(some, absent, atol=1e-5)


def test_each_transformer_xl_bias_goes_to_its_own_term(make_batch):
    """u belongs to the content, v to the position (Dai et al. 2019, section 3.3); against a plain reference."""
    config = preset("tiny", layers=1, position="transformer_xl")
    batch, rng = make_batch(config), np.random.default_rng(3)
    params = init_params(config, jax.random.key(0))
    weights = params["params"]["last_block"]["attention"]
    for name in ("u", "v"):
        weights[name] = jnp.asarray(rng.normal(size=weights[name].shape), jnp.float32)
    x_BLD = rng.normal(size=(2, 24, config.width)).astype(np.float32)
    context = Context(jnp.asarray(batch["positions"]), segments_BL=jnp.asarray(batch["segment_ids"]))
    got, _ = Attention(config, None).apply({"params": weights}, x_BLD, None, context, None)
    w = {name: np.asarray(value) for name, value in weights.items()}
    q, k, value = (np.einsum("bld,dhk->bhlk", x_BLD, w[name]) for name in ("query", "key", "value"))
    r_HMK = np.einsum("md,dhk->hmk", np.asarray(relative.sinusoids(24, config.width)), w["relative"])
    distance = np.arange(24)[:, None] - np.arange(24)
    position_BHLM = np.einsum("bhlk,hlmk->bhlm", q + w["v"][:, None], r_HMK[:, np.maximum(distance, 0)])
    scores = (np.einsum("bhlk,bhmk->bhlm", q + w["u"][:, None], k) + position_BHLM) / np.sqrt(config.head_dim)
    segments = batch["segment_ids"]
    seen = (segments[:, None, :, None] == segments[:, None, None, :]) & (distance >= 0)
    scores = np.where(seen, scores, -np.inf)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    want = np.einsum("bhlm,bhmk,hkd->bld", attention, value, w["out"])
    np.testing.assert_allclose(got, want, atol=1e-4)
