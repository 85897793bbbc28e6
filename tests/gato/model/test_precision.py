from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gato.model.precision import cast_params
from gato.model.transformer import GatoModel, init_params

DTYPES = jnp.float32, jnp.bfloat16


def leaf_pairs(one, other):
    return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


def test_a_network_acts_the_same_with_parameters_that_are_cast_already(config, make_batch):
    config = config.replace(dtype="bfloat16")
    batch, params = make_batch(config), init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    cast = cast_params(config, params)

    @jax.jit
    def logits(params):
        model = GatoModel(config)
        return model.apply(params, model.apply(params, batch), 3, 500, method="logits")

    np.testing.assert_array_equal(logits(cast), logits(params))
    # What is left in float32 is small.
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(cast) if leaf.dtype == dtype) for dtype in DTYPES]
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sizes[0] < 0.01 * sizes[1]
    assert all(a is b for a, b in leaf_pairs(cast_params(config, cast), cast))


def test_float32_stays_as_it_is(config):
    params = init_params(config, jax.random.key(0))
    assert all(a is b for a, b in leaf_pairs(cast_params(config, params), params))
