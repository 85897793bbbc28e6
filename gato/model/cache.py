"""The key/value cache of decoding: preallocated, of another length in every row, rewindable; with a span, a ring.

The token at position p of a row stands in slot p modulo the capacity. Without a span the caller keeps every position
below the capacity. With one, each token sees the `span` latest tokens up to itself, whatever the chunks in which they
came, as long as no chunk is longer than ``capacity - span + 1``: what it overwrites is then out of everyone's sight.

Each layer has arrays of its own, so a token's pass reads and writes them where they are: out of one array for all
layers, XLA copies every layer before it multiplies.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gato.model.config import ModelConfig, ModelError


class LayerCache(flax.struct.PyTreeNode):
    """One layer's part.

    Attributes:
      k, v: [B, H, capacity, head_dim], of the model's dtype.
      relative: Transformer-XL's projected positions, [H, capacity, head_dim], of the distances capacity - 1 .. 0; None
        with rope.
    """

    k: jax.Array
    v: jax.Array
    relative: jax.Array | None = None


class Cache(flax.struct.PyTreeNode):
    """Keys and values of the tokens that each row has seen.

    Attributes:
      layers: of all layers.
      length: int32 [B], tokens of each row so far. ``cache.replace(length=...)`` with a smaller number forgets the last
        ones (of a ring that has not come round yet).
      span: tokens that each token sees, itself included; None: all before it.
    """

    layers: tuple[LayerCache, ...]
    length: jax.Array
    span: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.layers[0].k.shape[2]


def init_cache(config: ModelConfig, batch: int, capacity: int, params: Any = None, span: int | None = None) -> Cache:
    """An empty cache for `batch` rows of at most `capacity` tokens, or, with a `span`, of any number of tokens.

    Args:
      params: the model's variables with unrolled layers. Needed by Transformer-XL only: its position keys depend on the
        parameters and on nothing else, so they are computed here, once.
    """
    from gato.model.blocks import project_sinusoids  # the blocks import this file

    dtype = jnp.dtype(config.dtype)
    shape = (batch, config.heads, capacity, config.head_dim)
    layers = []
    for layer in range(config.layers):
        relative = None
        if config.position == "transformer_xl":
            if params is None:
                raise ModelError(
                    "init_cache: position 'transformer_xl' needs the parameters: init_cache(..., params=params)"
                )
            name = f"blocks_{layer}" if layer < config.layers - 1 else "last_block"
            kernel = params["params"][name]["attention"]["relative"]
            relative = project_sinusoids(kernel, capacity, dtype)[:, ::-1]
        layers.append(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), relative))
    return Cache(tuple(layers), jnp.zeros((batch,), jnp.int32), span)


def key_positions(cache: Cache, length_B: jax.Array) -> jax.Array:
    """int32 [B, capacity]: the position of the token in each slot, of rows with so many tokens; negative: none yet."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(cache.capacity)) % cache.capacity


def append(cache_BHCK: jax.Array, new_BHNK: jax.Array, length_B: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Writes the first ``valid_B`` of n new entries of each row behind the first ``length_B`` tokens of one layer.

    Nothing else changes. One scatter, which XLA does in place.
    """
    rows, capacity = new_BHNK.shape[0], cache_BHCK.shape[2]
    step_N = jnp.arange(new_BHNK.shape[2])
    slots_BN = jnp.where(step_N < valid_B[:, None], (length_B[:, None] + step_N) % capacity, capacity)
    new_BNHK = new_BHNK.swapaxes(1, 2).astype(cache_BHCK.dtype)
    return cache_BHCK.at[jnp.arange(rows)[:, None], :, slots_BN].set(new_BNHK, mode="drop")
