"""Rotary positions (Su et al. 2021): the fast alternative to `relative`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rotation(positions_BL: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [B, 1, L, head_dim / 2], of the angles position / 10000^(2k / head_dim).

    Angles are counted in 2^-32 of a turn, with integers that wrap: so the angle between two tokens depends on their
    distance alone to the last bit, also after days of acting. Floats would lose a digit with every tenfold position.
    """
    turns_K = 10_000.0 ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
    steps_K = jnp.asarray(np.round(turns_K * 2.0**32).astype(np.uint32))
    angles_B1LK = positions_BL[:, None, :, None].astype(jnp.uint32) * steps_K
    angles_B1LK = angles_B1LK.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)
    return jnp.cos(angles_B1LK), jnp.sin(angles_B1LK)


def rotate(x_BHLK: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns each pair (first half, second half) of a head's features by its position's angle."""
    cos, sin = (table.astype(x_BHLK.dtype) for table in cos_sin)
    first, second = jnp.split(x_BHLK, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
