"""Causal attention in plain XLA, tile by tile: never the square of a long row's scores, neither forward nor backward.

A tile is `block` queries against `block` keys. The forward pass goes along the keys of each block of queries with a
running maximum and sum, and keeps the output and one number a query, the logarithm of the softmax's sum; the backward
pass computes the weights of a tile again from it (Dao et al. 2022, section 3.1). Tiles above the diagonal are left out.
The loops are loops of the program, not of Python: unrolled, XLA computes many blocks' scores before it uses the first.

For Transformer-XL's position term, (q_i + v) . r_{i-j}, see `relative.align`: a tile of it is made from the products
with 2 * block distances, twice as many numbers. A row that is no longer than `block` is one tile, and while that is
computed its square stands in memory, float32, with the position term also [L, 2L].
"""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp

from gato.model import relative

MASKED = -1e30  # finite: -inf would make NaN out of a row without any legal key


class Position(flax.struct.PyTreeNode):
    """What Transformer-XL adds to the content scores of one block of the network.

    Attributes:
      queries_BHLK: q + v, the queries of the position term.
      keys_HMK: W_r R for the distances 0 .. M-1.
    """

    queries_BHLK: jax.Array
    keys_HMK: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend(
    q_BHLK: jax.Array,
    k_BHLK: jax.Array,
    v_BHLK: jax.Array,
    segments_BL: jax.Array,
    position: Position | None,
    block: int,
    in_turn: bool,
) -> jax.Array:
    """`attention.attention` in tiles of `block` queries and keys.

    Args:
      block: no more than the row is long.
      in_turn: one head of one row after the other, whose tile then stays in a CPU's cache, instead of all at once.
    """
    return _forward(q_BHLK, k_BHLK, v_BHLK, segments_BL, position, block, in_turn)[0]


def _forward(q, k, v, segments_BL, position, block, in_turn):
    out_BHLK, logsum_BHL = _each_head(_forward_head, (q, k, v), segments_BL, position, block, in_turn)
    return out_BHLK, (q, k, v, segments_BL, position, out_BHLK, logsum_BHL)


def _backward(block, in_turn, saved, dout_BHLK):
    q, k, v, segments_BL, position, out_BHLK, logsum_BHL = saved
    # The gradient of a softmax's input is weights * (d weights - this).
    inner_BHL = (out_BHLK.astype(jnp.float32) * dout_BHLK.astype(jnp.float32)).sum(axis=-1)
    arrays = (q, k, v, dout_BHLK, logsum_BHL, inner_BHL)
    dq, dk, dv, dqueries, dkeys = _each_head(_backward_head, arrays, segments_BL, position, block, in_turn)
    if position is None:
        return dq, dk, dv, None, None
    dkeys_HLK = dkeys.sum(axis=0)  # all rows share the distance keys
    spare = position.keys_HMK.shape[1] - dkeys_HLK.shape[1]
    dkeys_HMK = jnp.pad(dkeys_HLK, ((0, 0), (0, spare), (0, 0))).astype(position.keys_HMK.dtype)
    return dq, dk, dv, None, Position(dqueries, dkeys_HMK)


attend.defvjp(_forward, _backward)


def _each_head(one, arrays, segments_BL, position, block, in_turn):
    """Applies a function of one head of one row to [B, H, L, ...] arrays, padded to whole blocks."""
    length = segments_BL.shape[1]
    padded = -(-length // block) * block
    arrays = tuple(pad(x, 2, padded) for x in arrays)
    segments_BL = pad(segments_BL, 1, padded, value=-1)
    queries = descending = None
    if position is not None:
        queries = pad(position.queries_BHLK, 2, padded)
        descending = relative.descending_tiles(position.keys_HMK, length, block)
    one = functools.partial(one, block=block)
    if in_turn:

        def row(xs):
            arrays, segments_L, queries_HLK = xs
            return jax.lax.map(lambda x: one(*x, segments_L), (arrays, queries_HLK, descending))

        outs = jax.lax.map(row, (arrays, segments_BL, queries))
    else:
        heads = jax.vmap(one, (0, 0, 0, None))
        outs = jax.vmap(heads, (0, 0, None, 0))(arrays, queries, descending, segments_BL)
    if descending is not None and len(outs) > 2:
        *outs, ddescending = outs
        outs = (*outs, relative.ascending(ddescending, length, block))
    return jax.tree.map(lambda x: x[:, :, :length], tuple(outs))


def pad(x: jax.Array, axis: int, size: int, value: int = 0) -> jax.Array:
    """With so many entries along an axis; new ones behind the old."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=value)


def _forward_head(arrays, queries_LK, descending, segments_L, *, block):
    """out [L, K] and the logarithm of each query's sum of weights, float32 [L]."""
    q_LK, k_LK, v_LK = arrays
    length, size = q_LK.shape

    def queries(i):
        def keys(j, carry):
            largest_Q1, sum_Q1, mixed_QK = carry
            scores_QM = _scores(q_LK, k_LK, queries_LK, descending, segments_L, i, j, block)
            new_Q1 = jnp.maximum(largest_Q1, scores_QM.max(axis=-1, keepdims=True))
            weights_QM = jnp.exp(scores_QM - new_Q1)
            shrink_Q1 = jnp.exp(largest_Q1 - new_Q1)
            sum_Q1 = shrink_Q1 * sum_Q1 + weights_QM.sum(axis=-1, keepdims=True)
            added_QK = _dot(weights_QM.astype(v_LK.dtype), _rows(v_LK, j, block))
            return new_Q1, sum_Q1, shrink_Q1 * mixed_QK + added_QK

        # What masked tiles before the diagonal one add is scaled by 0 there, where every query meets itself.
        start = (jnp.full((block, 1), MASKED), jnp.zeros((block, 1)), jnp.zeros((block, size)))
        largest_Q1, sum_Q1, mixed_QK = jax.lax.fori_loop(0, i + 1, keys, start)
        return (mixed_QK / sum_Q1).astype(v_LK.dtype), (largest_Q1 + jnp.log(sum_Q1))[:, 0]

    out, logsum = jax.lax.map(queries, jnp.arange(length // block))
    return out.reshape(length, size), logsum.reshape(length)


def _backward_head(arrays, queries_LK, descending, segments_L, *, block):
    """The gradients of q, k, v and, with a position term, of its queries and of the descending distance keys."""
    q_LK, k_LK, v_LK, dout_LK, logsum_L, inner_L = arrays
    length, size = q_LK.shape
    dtype, scale = q_LK.dtype, size**-0.5

    def queries(sums, i):
        q_QK, dout_QK, logsum_Q, inner_Q = (_rows(x, i, block) for x in (q_LK, dout_LK, logsum_L, inner_L))

        def keys(j, carry):
            (dk_KL, dv_KL, *distances), dq_QK, dqueries_QK = carry
            scores_QM = _scores(q_LK, k_LK, queries_LK, descending, segments_L, i, j, block)
            weights_QM = jnp.exp(scores_QM - logsum_Q[:, None])
            dweights_QM = _dot(dout_QK, _rows(v_LK, j, block).T)
            dscores_QM = (weights_QM * (dweights_QM - inner_Q[:, None])).astype(dtype)
            dv_KL = _add(dv_KL, j * block, _dot(dout_QK.T, weights_QM.astype(dtype)))
            dk_KL = _add(dk_KL, j * block, _dot(q_QK.T, dscores_QM))
            dq_QK += _dot(dscores_QM, _rows(k_LK, j, block))
            if descending is not None:
                start = _window(descending, i, j, block)
                ddescending, scratch = distances
                dby_distance, scratch = relative.align_transposed(dscores_QM, scratch)
                window = jax.lax.dynamic_slice_in_dim(descending, start, 2 * block)
                dqueries_QK += _dot(dby_distance, window)
                ddescending = _add(ddescending, start, _dot(_rows(queries_LK, i, block).T, dby_distance))
                distances = [ddescending, scratch]
            return (dk_KL, dv_KL, *distances), dq_QK, dqueries_QK

        zeros = jnp.zeros((block, size))
        sums, *rows = jax.lax.fori_loop(0, i + 1, keys, (sums, zeros, None if descending is None else zeros))
        return sums, tuple(rows)

    # Gradients of what stands on the right are summed transposed: on a CPU a product with a transposed left side takes
    # twice as long as another, and so the small array is the one that is transposed.
    sums = tuple(jnp.zeros((2, size, length)))
    if descending is not None:
        sums = (*sums, jnp.zeros((size, len(descending))), jnp.zeros((block + 1, 3 * block), dtype))
    sums, rows = jax.lax.scan(queries, sums, jnp.arange(length // block))
    dk, dv = sums[0].T * scale, sums[1].T
    dq, dqueries = jax.tree.map(lambda x: (x.reshape(length, size) * scale).astype(dtype), rows)
    return dq, dk.astype(dtype), dv.astype(dtype), dqueries, None if descending is None else sums[2].T * scale


def _scores(q_LK, k_LK, queries_LK, descending, segments_L, i, j, block):
    """Scaled and masked float32 scores of the i-th block of queries for the j-th block of keys."""
    scale = q_LK.shape[1] ** -0.5
    scores_QM = _dot(_rows(q_LK, i, block) * scale, _rows(k_LK, j, block).T)
    if descending is not None:
        window = jax.lax.dynamic_slice_in_dim(descending, _window(descending, i, j, block), 2 * block)
        scores_QM += relative.align(_dot(_rows(queries_LK, i, block) * scale, window.T))
    same_QM = _rows(segments_L, i, block)[:, None] == _rows(segments_L, j, block)
    index = jnp.arange(block)
    return jnp.where(same_QM & (index[:, None] + (i - j) * block >= index), scores_QM, MASKED)


def _window(descending: jax.Array, i: jax.Array, j: jax.Array, block: int) -> jax.Array:
    """The first of the 2 * block distance keys for the i-th block of queries and the j-th of keys."""
    return len(descending) - 2 * block - (i - j) * block


def _rows(x: jax.Array, i: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, i * block, block)


def _add(x_KL: jax.Array, start: jax.Array, more: jax.Array) -> jax.Array:
    old = jax.lax.dynamic_slice_in_dim(x_KL, start, more.shape[1], axis=1)
    return jax.lax.dynamic_update_slice_in_dim(x_KL, old + more, start, axis=1)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
