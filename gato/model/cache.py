"""The key/value cache of decoding: preallocated, of another length in every row, rewindable; with a span, a ring.

The token at position p of a row stands in slot p modulo the capacity. Without a span the caller keeps every position
below the capacity. With one, each token sees the `span` latest tokens up to itself, whatever the chunks in which they
came, as long as no chunk is longer than ``capacity - span + 1``: what it overwrites is then out of everyone's sight.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gato.model.config import ModelConfig, ModelError
from gato.model.layers import unstack_layers


class Cache(flax.struct.PyTreeNode):
    """Keys and values of the tokens that each row has seen.

    Attributes:
      k, v: [layers, B, H, capacity, head_dim], of the model's dtype.
      length: int32 [B], tokens of each row so far. ``cache.replace(length=...)`` with a smaller number forgets the last
        ones (of a ring that has not come round yet).
      relative: Transformer-XL's projected positions, [layers, H, span or capacity, head_dim]; None with rope.
      span: tokens that each token sees, itself included; None: all before it.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array
    relative: jax.Array | None = None
    span: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.k.shape[3]


def init_cache(config: ModelConfig, batch: int, capacity: int, params: Any = None, span: int | None = None) -> Cache:
    """An empty cache for `batch` rows of at most `capacity` tokens, or, with a `span`, of any number of tokens.

    Args:
      params: the model's variables (as `init_params` returns them). Needed by Transformer-XL only: its position keys
        depend on the parameters and on nothing else, so they are computed here, once.
    """
    from gato.model.blocks import project_sinusoids  # the blocks import this file

    shape = (config.layers, batch, config.heads, capacity, config.head_dim)
    relative = None
    if config.position == "transformer_xl":
        if params is None:
            raise ModelError(
                "init_cache: position 'transformer_xl' needs the parameters: init_cache(..., params=params)"
            )
        layers = unstack_layers(params, config)["params"]
        names = [f"blocks_{layer}" for layer in range(config.layers - 1)] + ["last_block"]
        kernels = [layers[name]["attention"]["relative"] for name in names]
        longest = capacity if span is None else span
        relative = jnp.stack([project_sinusoids(kernel, longest, jnp.dtype(config.dtype)) for kernel in kernels])
    return Cache(
        k=jnp.zeros(shape, config.dtype),
        v=jnp.zeros(shape, config.dtype),
        length=jnp.zeros((batch,), jnp.int32),
        relative=relative,
        span=span,
    )


def key_positions(cache: Cache, length_B: jax.Array) -> jax.Array:
    """int32 [B, capacity]: the position of the token in each slot, of rows with so many tokens; negative: none yet."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(cache.capacity)) % cache.capacity


def append(
    cache_SBHCK: jax.Array, layer: jax.Array, new_BHNK: jax.Array, length_B: jax.Array, valid_B: jax.Array
) -> jax.Array:
    """Writes the first ``valid_B`` of n new entries of each row behind the first ``length_B`` tokens of one layer.

    Nothing else changes. One scatter, which XLA does in place: a copy of a whole layer for every token would cost more
    than the attention.
    """
    rows, capacity = new_BHNK.shape[0], cache_SBHCK.shape[3]
    step_N = jnp.arange(new_BHNK.shape[2])
    slots_BN = jnp.where(step_N < valid_B[:, None], (length_B[:, None] + step_N) % capacity, capacity)
    new_BNHK = new_BHNK.swapaxes(1, 2).astype(cache_SBHCK.dtype)
    return cache_SBHCK.at[layer, jnp.arange(rows)[:, None], :, slots_BN].set(new_BNHK, mode="drop")
