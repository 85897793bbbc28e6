"""The key/value cache of decoding: preallocated, of another length in every row, rewindable; with a span, a ring.

The token at position p of a row stands in slot p modulo the capacity. Without a span the caller keeps every position
below the capacity. With one, each token sees the `span` latest tokens up to itself, whatever the chunks in which they
came, as long as no chunk is longer than ``capacity - span + 1``: what it overwrites is then out of everyone's sight.

Each layer has arrays of its own: out of one array for all layers, XLA copies every layer before it multiplies. For the
same reason tokens that are sampled one after the other do not go into the cache one by one. They wait in small arrays,
the recent tokens, which all rows fill in step, and `commit` writes them at the end.

Slots are the last axis: both products of a single query with the cache then run along them, on a CPU 1.6 times as fast
as along the few numbers of a head.
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
      k, v: [B, H, head_dim, capacity], of the model's dtype.
      relative: Transformer-XL's projected positions, [H, head_dim, capacity], of the distances capacity - 1 .. 0; None
        with rope.
      recent: keys and values of the recent tokens, [B, H, head_dim, T] each; None while there are none.
    """

    k: jax.Array
    v: jax.Array
    relative: jax.Array | None = None
    recent: tuple[jax.Array, jax.Array] | None = None


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
        return self.layers[0].k.shape[-1]


def init_cache(config: ModelConfig, batch: int, capacity: int, params: Any = None, span: int | None = None) -> Cache:
    """An empty cache for `batch` rows of at most `capacity` tokens, or, with a `span`, of any number of tokens.

    Args:
      params: the model's variables with unrolled layers. Needed by Transformer-XL only: its position keys depend on the
        parameters and on nothing else, so they are computed here, once.
    """
    from gato.model.blocks import project_sinusoids  # the blocks import this file

    dtype = jnp.dtype(config.dtype)
    shape = (batch, config.heads, config.head_dim, capacity)
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
            relative = project_sinusoids(kernel, capacity, dtype)[:, ::-1].swapaxes(1, 2)
        layers.append(LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), relative))
    return Cache(tuple(layers), jnp.zeros((batch,), jnp.int32), span)


def key_positions(cache: Cache, length_B: jax.Array) -> jax.Array:
    """int32 [B, capacity]: the position of the token in each slot, of rows with so many tokens; negative: none yet."""
    last_B1 = length_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(cache.capacity)) % cache.capacity


def append(cache_BHKC: jax.Array, new_BHNK: jax.Array, length_B: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Writes the first ``valid_B`` of n new entries of each row behind the first ``length_B`` tokens of one layer.

    Nothing else changes. One scatter, which XLA does in place.
    """
    rows, capacity = new_BHNK.shape[0], cache_BHKC.shape[-1]
    step_N = jnp.arange(new_BHNK.shape[2])
    slots_BN = jnp.where(step_N < valid_B[:, None], (length_B[:, None] + step_N) % capacity, capacity)
    new_BNHK = new_BHNK.swapaxes(1, 2).astype(cache_BHKC.dtype)
    return cache_BHKC.at[jnp.arange(rows)[:, None], :, :, slots_BN].set(new_BNHK, mode="drop")


Recent = tuple[tuple[jax.Array, jax.Array], ...]


def init_recent(cache: Cache, count: int) -> Recent:
    """Room for ``count`` recent tokens of every row, for every layer."""
    shape = (*cache.layers[0].k.shape[:3], count)
    return tuple((jnp.zeros(shape, layer.k.dtype), jnp.zeros(shape, layer.v.dtype)) for layer in cache.layers)


def commit(cache: Cache, recent: Recent, valid_B: jax.Array) -> Cache:
    """The cache with the first ``valid_B`` recent tokens of each row behind its own."""
    layers = tuple(
        layer.replace(
            k=append(layer.k, keys.swapaxes(2, 3), cache.length, valid_B),
            v=append(layer.v, values.swapaxes(2, 3), cache.length, valid_B),
            recent=None,
        )
        for layer, (keys, values) in zip(cache.layers, recent, strict=True)
    )
    return cache.replace(layers=layers, length=cache.length + valid_B)
