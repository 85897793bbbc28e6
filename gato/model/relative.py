"""Transformer-XL relative positions (Dai et al. 2019, section 3.3): the position term (q + v) . W_r R_{i-j}.

Gato's parameter counts imply this attention: 11 D^2 a block, which is 4 for the attention's projections, 1 for W_r and
6 for the feed-forward.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sinusoids(length: int, width: int) -> jax.Array:
    """R for the distances 0 .. length-1, float32 [length, width]: all sines, then all cosines."""
    frequencies_K = 10_000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles_MK = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies_K
    return jnp.concatenate([jnp.sin(angles_MK), jnp.cos(angles_MK)], axis=-1)


def descending_tiles(keys_HMK: jax.Array, length: int, tile: int) -> jax.Array:
    """Keys of the distances in descending order, for the whole tiles of a row: [H, tiles * N + N, K].

    Row m belongs to the distance tiles * N - m; rows of distances beyond the row, or below 0, meet masked scores only.
    """
    keys_HLK = keys_HMK[:, :length][:, ::-1]
    return jnp.pad(keys_HLK, ((0, 0), (-length % tile + 1, tile - 1), (0, 0)))


def ascending(descending: jax.Array, length: int, tile: int) -> jax.Array:
    """The transpose of `descending_tiles`: [..., tiles * N + N, K] -> [..., length, K]."""
    first = -length % tile + 1
    return descending[..., first : first + length, :][..., ::-1, :]


def align(by_distance: jax.Array) -> jax.Array:
    """Scores by distance -> scores by key, for a tile of N queries and N keys: [N, 2N] -> [N, N].

    Columns are distances in descending order, from N more than that of the first query and the first key. So a query
    finds its first key in column N, the next query in column N - 1: read as one line of numbers, rows of 2N numbers
    become rows of 2N - 1 behind a constant offset.
    """
    size = len(by_distance)
    return by_distance.reshape(-1)[size:].reshape(size, 2 * size - 1)[:, :size]


def align_transposed(by_key: jax.Array, scratch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The transpose of `align`, [N, N] -> [N, 2N], and the next call's scratch.

    Args:
      scratch: [N + 1, 3N], zeros before the first call. The scores are written into its middle third, between zeros,
        and its rows are read as if they had one number more. Written into an array that a loop carries along, they
        are a plain copy; as one expression, XLA for CPUs divides to find the place of every number.
    """
    size = len(by_key)
    scratch = jax.lax.dynamic_update_slice(scratch, by_key, (0, size))
    line = scratch.reshape(-1)[: size * (3 * size + 1)]
    return line.reshape(size, 3 * size + 1)[:, : 2 * size], scratch


def shift_causal(scores_BHQM: jax.Array) -> jax.Array:
    """Scores by distance -> scores by key, for a block of queries that ends at the last key.

    Args:
      scores_BHQM: Q queries against M distances in *descending* order (M-1 .. 0); the block's last query is key M-1.

    Returns:
      [B, H, Q, M]: entry (i, j) is the score of query i for key j. Entries of keys after the query are meaningless.
    """
    batch, heads, queries, keys = scores_BHQM.shape
    # Query i needs its row moved left by Q-1-i. One column of padding and a reshape move row i by i more than row 0.
    padded = jnp.pad(scores_BHQM, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return padded.reshape(batch, heads, keys + 1, queries)[:, :, 1:].reshape(batch, heads, queries, keys)


def by_slot(scores_HBQC: jax.Array, first_B: jax.Array) -> jax.Array:
    """Scores by distance -> scores by cache slot, for Q queries of each row, the first at position ``first_B``.

    Args:
      scores_HBQC: against the distances C-1 .. 0, where C is the capacity.

    Returns:
      [B, H, Q, C]: entry (i, s) is the score of query i for the token at a distance of 0 .. C-1 that slot s (its
      position modulo C) holds or would hold. Copies of slices only: to look every number up takes longer than
      the attention itself.
    """
    heads, batch, queries, capacity = scores_HBQC.shape
    # Slot s is number off + s - i of row i, if a row goes on with its beginning: off = C - 1 - first, modulo C.
    line = jnp.concatenate([scores_HBQC[..., capacity - queries :], scores_HBQC, scores_HBQC], axis=-1)
    width = 2 * capacity + queries
    # Read with rows that are shorter by one, row i is moved by i.
    line = line.reshape(heads, batch, queries * width)[..., : queries * (width - 1)]
    moved_HBQX = line.reshape(heads, batch, queries, width - 1)
    start_B = queries + (capacity - 1 - first_B) % capacity

    def row(moved_HQX: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(moved_HQX, start, capacity, axis=-1)

    return jax.vmap(row, in_axes=(1, 0))(moved_HBQX, start_B)
