"""How the fused kernels turn scores by distance into scores by key, tile by tile.

A tile of N queries and N keys, t tiles apart, meets the distances t*N + N .. t*N - N + 1: in descending order two
tiles of N distance keys, left and right. With them, query a finds its first key in column N - a of the left one, its
a-th key in column 0 of the right one. So the columns of both are laid over one another, N - a and more from the left
(`from_left`), the others from the right, and row a is rotated by a. The gradient goes the same way back.

For one tile of queries, the right distances are the left ones of the next tile of keys, so their product is made once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def iota(axis: int, tile: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (tile, tile), axis)


def from_left(tile: int) -> jax.Array:
    """Which entries [N, N] are products with the left distances, before the rotation."""
    return iota(1, tile) + iota(0, tile) >= tile


def seen(tile: int, apart: jax.Array) -> jax.Array:
    """Which keys are not ahead of their query, of tiles so far apart: [N, N]."""
    return iota(0, tile) + apart * tile >= iota(1, tile)
