"""Drawing ids from logits: temperature, top-k and top-p, each row with a key of its own; inside a compiled program."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gato.tokenizers.errors import GatoError

ILLEGAL = -1e30  # finite, so that a logit can be inspected; its probability is exactly 0 beside any legal one


class SamplingError(GatoError):
    """A temperature, top-k or top-p that cannot be drawn with."""


class Sampling(flax.struct.PyTreeNode):
    """How an id is drawn from its logits; all of it may change from call to call.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: only the so many largest logits can be drawn; None: all.
      top_p: of these only the most probable, as few as have this probability together; None: all.
    """

    temperature: jax.Array | np.generic
    top_k: jax.Array | np.generic | None = None
    top_p: jax.Array | np.generic | None = None

    @staticmethod
    def of(temperature: float, top_k: int | None = None, top_p: float | None = None) -> Sampling:
        """Raises SamplingError for what is no way to draw."""
        if not temperature >= 0:
            raise SamplingError(f"temperature must be at least 0 (greedy), got {temperature}")
        if top_k is not None and top_k < 1:
            raise SamplingError(f"top_k must be at least 1, or None for all ids, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise SamplingError(f"top_p must be above 0 and at most 1, or None, got {top_p}")
        return Sampling(
            np.float32(temperature),
            None if top_k is None else np.int32(top_k),
            None if top_p is None else np.float32(top_p),
        )


def sample(logits_BV: jax.Array, keys_B: jax.Array, sampling: Sampling) -> jax.Array:
    """Index drawn from each row's logits with the row's own key, int32 [B]."""
    temperature = jnp.asarray(sampling.temperature)
    scaled_BV = logits_BV / jnp.where(temperature > 0, temperature, 1.0)
    if sampling.top_k is not None or sampling.top_p is not None:
        scaled_BV = _cut_tail(scaled_BV, sampling)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, scaled_BV)
    return jnp.where(temperature > 0, drawn_B, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)


def _cut_tail(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits, ILLEGAL where top-k or top-p leave them out. Ties with the last that stays stay too."""
    descending_BV = -jnp.sort(-logits_BV, axis=-1)
    kept_BV = jnp.ones(logits_BV.shape, bool)
    if sampling.top_k is not None:
        kept_BV &= jnp.arange(logits_BV.shape[-1]) < jnp.asarray(sampling.top_k)
    if sampling.top_p is not None:
        probability_BV = jax.nn.softmax(jnp.where(kept_BV, descending_BV, ILLEGAL), axis=-1)
        kept_BV &= jnp.cumsum(probability_BV, axis=-1) - probability_BV < jnp.asarray(sampling.top_p)
    least_B1 = jnp.take_along_axis(descending_BV, kept_BV.sum(axis=-1, keepdims=True) - 1, axis=-1)
    return jnp.where(logits_BV >= least_B1, logits_BV, ILLEGAL)


def fold_each(keys_B: jax.Array, data: jax.Array | np.ndarray | int) -> jax.Array:
    """`jax.random.fold_in` of one number into each row's key, or of each row's number."""
    return jax.vmap(jax.random.fold_in, (0, None if jnp.ndim(data) == 0 else 0))(keys_B, data)
