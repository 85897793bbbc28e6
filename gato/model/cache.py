"""The key/value cache of decoding: preallocated, of another length in every row, and rewindable."""

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
      length: int32 [B], tokens in each row. ``cache.replace(length=...)`` with a smaller number forgets the last ones.
      relative: Transformer-XL's projected positions, [layers, H, capacity, head_dim]; None with rope.
    """

    k: jax.Array
    v: jax.Array
    length: jax.Array
    relative: jax.Array | None = None

    @property
    def capacity(self) -> int:
        """Tokens that a row can hold."""
        return self.k.shape[3]


def init_cache(config: ModelConfig, batch: int, capacity: int, params: Any = None) -> Cache:
    """An empty cache for `batch` rows of at most `capacity` tokens.

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
        relative = jnp.stack([project_sinusoids(kernel, capacity, jnp.dtype(config.dtype)) for kernel in kernels])
    return Cache(
        k=jnp.zeros(shape, config.dtype),
        v=jnp.zeros(shape, config.dtype),
        length=jnp.zeros((batch,), jnp.int32),
        relative=relative,
    )


def append(cache_BHCK: jax.Array, new_BHNK: jax.Array, length_B: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Writes the first ``valid_B`` of n new entries of each row behind its first ``length_B`` entries.

    Nothing else of the cache changes, also where the n new entries would reach beyond the capacity.
    """
    capacity, count = cache_BHCK.shape[2], new_BHNK.shape[2]

    def write(row_HCK: jax.Array, new_HNK: jax.Array, length: jax.Array, valid: jax.Array) -> jax.Array:
        # dynamic_update_slice moves a slice that would not fit; so we place it ourselves and shift the entries in it.
        start = jnp.clip(length, 0, capacity - count)
        old_HNK = jax.lax.dynamic_slice_in_dim(row_HCK, start, count, axis=1)
        index_N = jnp.arange(count) - (length - start)
        shifted_HNK = jnp.take(new_HNK, index_N, axis=1, mode="clip")
        fresh_N = (index_N >= 0) & (index_N < valid)
        return jax.lax.dynamic_update_slice_in_dim(
            row_HCK, jnp.where(fresh_N[None, :, None], shifted_HNK, old_HNK), start, axis=1
        )

    return jax.vmap(write)(cache_BHCK, new_BHNK.astype(cache_BHCK.dtype), length_B, valid_B)
