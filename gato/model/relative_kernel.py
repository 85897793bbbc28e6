"""Transformer-XL attention as one fused TPU kernel (Pallas): scores live in the chip's vector memory only.

A tile of N queries and N keys needs 2N rows of the distance keys in descending order. Their product with the tile's
queries is [N, 2N], and entry (a, b) of the tile is its column N-a+b, which a rotation by one more from row to row
brings to column b. The gradient goes the other way, which such a rotation can do for rows in reverse order only, so a
product with an exchange matrix turns them around. The rest is `blockwise` again.

Keys, values and distances of one head of a row, and in the backward pass their float32 gradients, must fit the chip's
vector memory.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gato.model.blockwise import MASKED, pad

Arrays = tuple[jax.Array, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def attend(
    q_BHLK: jax.Array,
    k_BHLK: jax.Array,
    v_BHLK: jax.Array,
    segments_BL: jax.Array,
    queries_BHLK: jax.Array,
    keys_HMK: jax.Array,
    tile: int,
    interpret: bool,
) -> jax.Array:
    """`attention.attention` with a position term.

    Args:
      queries_BHLK, keys_HMK: as in `attention.Position`; M >= L.
      tile: queries and keys in one, a multiple of 128.
      interpret: runs the kernel's steps as plain operations, on any platform (slow; for tests).
    """
    return _forward(q_BHLK, k_BHLK, v_BHLK, segments_BL, queries_BHLK, keys_HMK, tile, interpret)[0]


def _forward(q, k, v, segments_BL, queries, keys_HMK, tile, interpret):
    length = q.shape[2]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile)
    batch, heads, padded, size = inputs[0].shape
    specs = _Specs(padded, size, tile)
    out, logsum = pl.pallas_call(
        functools.partial(_forward_kernel, scale=size**-0.5),
        grid=(heads, batch, padded // tile),
        in_specs=specs.inputs(),
        out_specs=[specs.rows(size), specs.rows(1)],
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, padded, size), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, padded, 1), jnp.float32),
        ],
        interpret=interpret,
        name="relative_attention_forward",
    )(*inputs)
    saved = (q, k, v, segments_BL, queries, keys_HMK, out[:, :, :length], logsum[:, :, :length, 0])
    return out[:, :, :length], saved


def _backward(tile, interpret, saved, dout_BHLK):
    q, k, v, segments_BL, queries, keys_HMK, out_BHLK, logsum_BHL = saved
    length = q.shape[2]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile)
    batch, heads, padded, size = inputs[0].shape
    specs = _Specs(padded, size, tile)
    inner_BHL = (out_BHLK.astype(jnp.float32) * dout_BHLK.astype(jnp.float32)).sum(axis=-1)
    rest = (pad(dout_BHLK, 2, padded), *(pad(x, 2, padded)[..., None] for x in (logsum_BHL, inner_BHL)))
    whole = jax.ShapeDtypeStruct((batch, heads, padded, size), jnp.float32)
    dq, dqueries, dk, dv, ddescending = pl.pallas_call(
        functools.partial(_backward_kernel, scale=size**-0.5),
        grid=(heads, batch, padded // tile),
        in_specs=[*specs.inputs(), specs.rows(size), specs.rows(1), specs.rows(1)],
        out_specs=[specs.rows(size), specs.rows(size), specs.whole(), specs.whole(), specs.distances()],
        out_shape=[
            jax.ShapeDtypeStruct(whole.shape, q.dtype),
            jax.ShapeDtypeStruct(whole.shape, q.dtype),
            whole,
            whole,
            jax.ShapeDtypeStruct((heads, padded + tile, size), jnp.float32),
        ],
        interpret=interpret,
        name="relative_attention_backward",
    )(*inputs, *rest)
    dq, dqueries, dk, dv = (x[:, :, :length].astype(q.dtype) for x in (dq, dqueries, dk, dv))
    dkeys_HLK = ddescending[:, padded - length + 1 : padded + 1][:, ::-1]
    return dq, dk, dv, None, dqueries, pad(dkeys_HLK, 1, keys_HMK.shape[1]).astype(keys_HMK.dtype)


attend.defvjp(_forward, _backward)


def _inputs(q, k, v, segments_BL, queries, keys_HMK, tile):
    """Arrays of whole tiles: q, queries, k, v, distance keys in descending order, segments as column and as row."""
    length = q.shape[2]
    padded = -(-length // tile) * tile
    # Row m belongs to the distance padded - m; rows of distances beyond the row, or below 0, meet masked scores only.
    descending = jnp.pad(keys_HMK[:, :length][:, ::-1], ((0, 0), (padded - length + 1, tile - 1), (0, 0)))
    segments_BL = pad(segments_BL, 1, padded, value=-1)
    q, queries, k, v = (pad(x, 2, padded) for x in (q, queries, k, v))
    return q, queries, k, v, descending, segments_BL[:, :, None], segments_BL[:, None]


class _Specs:
    """What a step of the grid (head, row of the batch, tile of queries) sees of each array."""

    def __init__(self, length: int, size: int, tile: int) -> None:
        self.length, self.size, self.tile = length, size, tile

    def rows(self, width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, self.tile, width), lambda h, b, i: (b, h, i, 0))

    def whole(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, self.length, self.size), lambda h, b, i: (b, h, 0, 0))

    def distances(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.length + self.tile, self.size), lambda h, b, i: (h, 0, 0))

    def inputs(self) -> list[pl.BlockSpec]:
        column = pl.BlockSpec((None, self.tile, 1), lambda h, b, i: (b, i, 0))
        row = pl.BlockSpec((None, 1, self.length), lambda h, b, i: (b, 0, 0))
        return [self.rows(self.size)] * 2 + [self.whole()] * 2 + [self.distances(), column, row]


def _forward_kernel(q_ref, queries_ref, k_ref, v_ref, d_ref, column_ref, row_ref, out_ref, logsum_ref, *, scale):
    i = pl.program_id(2)
    tile, size = q_ref.shape
    refs = (q_ref, queries_ref, k_ref, d_ref, column_ref, row_ref)

    def step(j: jax.Array, carry: Arrays) -> Arrays:
        largest_N1, sum_N1, mixed_NK = carry
        scores_NN = _tile_scores(refs, i, j, scale)
        new_N1 = jnp.maximum(largest_N1, scores_NN.max(axis=-1, keepdims=True))
        weights_NN = jnp.exp(scores_NN - new_N1)
        shrink_N1 = jnp.exp(largest_N1 - new_N1)
        added_NK = _dot(weights_NN.astype(v_ref.dtype), _rows(v_ref, j, tile))
        sum_N1 = shrink_N1 * sum_N1 + weights_NN.sum(axis=-1, keepdims=True)
        return new_N1, sum_N1, shrink_N1 * mixed_NK + added_NK

    start = (jnp.full((tile, 1), MASKED), jnp.zeros((tile, 1)), jnp.zeros((tile, size)))
    # In the last tile, the diagonal one, every query meets itself; what masked tiles before it added is scaled by 0.
    largest_N1, sum_N1, mixed_NK = jax.lax.fori_loop(0, i + 1, step, start)
    out_ref[...] = (mixed_NK / sum_N1).astype(out_ref.dtype)
    logsum_ref[...] = largest_N1 + jnp.log(sum_N1)


def _backward_kernel(
    q_ref,
    queries_ref,
    k_ref,
    v_ref,
    d_ref,
    column_ref,
    row_ref,
    dout_ref,
    logsum_ref,
    inner_ref,
    dq_ref,
    dqueries_ref,
    dk_ref,
    dv_ref,
    dd_ref,
    *,
    scale,
):
    batch, i = pl.program_id(1), pl.program_id(2)
    tile, size = q_ref.shape
    dtype = q_ref.dtype
    refs = (q_ref, queries_ref, k_ref, d_ref, column_ref, row_ref)

    exchange_NN = (_iota(0, tile) + _iota(1, tile) == tile - 1).astype(dtype)
    turned_queries_NK = _dot(exchange_NN, queries_ref[...]).astype(dtype)

    @pl.when(i == 0)
    def _() -> None:
        dk_ref[...] = jnp.zeros_like(dk_ref)
        dv_ref[...] = jnp.zeros_like(dv_ref)

    @pl.when((batch == 0) & (i == 0))  # the distance keys are shared by the rows of the batch
    def _() -> None:
        dd_ref[...] = jnp.zeros_like(dd_ref)

    def step(j: jax.Array, carry: Arrays) -> Arrays:
        dq_NK, turned_NK = carry
        weights_NN = jnp.exp(_tile_scores(refs, i, j, scale) - logsum_ref[...])
        dweights_NN = _dot(dout_ref[...], _rows(v_ref, j, tile), transpose_b=True)
        dscores_NN = weights_NN * (dweights_NN - inner_ref[...]) * scale
        keys = pl.ds(pl.multiple_of(j * tile, tile), tile)
        dv_ref[keys, :] += _dot(weights_NN.astype(dtype), dout_ref[...], transpose_a=True)
        dk_ref[keys, :] += _dot(dscores_NN.astype(dtype), q_ref[...], transpose_a=True)
        dq_NK += _dot(dscores_NN.astype(dtype), _rows(k_ref, j, tile))
        # In reverse order, row a's column b goes to 1 + a + b.
        turned_NN = _dot(exchange_NN, dscores_NN.astype(dtype))
        wide = jnp.concatenate([turned_NN, jnp.zeros_like(turned_NN)], axis=1)
        wide = pltpu.roll(wide, 1, 1, stride=1, stride_axis=0).astype(dtype)
        window = _window(d_ref, i - j, tile)
        dd_ref[window, :] += _dot(wide, turned_queries_NK, transpose_a=True)
        return dq_NK, turned_NK + _dot(wide, d_ref[window, :])

    start = (jnp.zeros((tile, size)), jnp.zeros((tile, size)))
    dq_NK, turned_NK = jax.lax.fori_loop(0, i + 1, step, start)
    dq_ref[...] = dq_NK.astype(dtype)
    dqueries_ref[...] = _dot(exchange_NN, turned_NK.astype(dtype)).astype(dtype)


def _tile_scores(refs, i, j, scale):
    """Scaled, masked float32 scores [N, N] of the i-th tile of queries for the j-th tile of keys."""
    q_ref, queries_ref, k_ref, d_ref, column_ref, row_ref = refs
    tile = q_ref.shape[0]
    by_distance = _dot(queries_ref[...], d_ref[_window(d_ref, i - j, tile), :], transpose_b=True)
    aligned_NN = pltpu.roll(by_distance, tile, 1, stride=1, stride_axis=0)[:, :tile]
    scores_NN = (_dot(q_ref[...], _rows(k_ref, j, tile), transpose_b=True) + aligned_NN) * scale
    ahead_NN = _iota(1, tile) - _iota(0, tile) + (j - i) * tile
    same_NN = column_ref[...] == row_ref[:, pl.ds(pl.multiple_of(j * tile, tile), tile)]
    return jnp.where(same_NN & (ahead_NN <= 0), scores_NN, MASKED)


def _iota(axis: int, tile: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (tile, tile), axis)


def _rows(ref: Any, j: jax.Array, tile: int) -> jax.Array:
    return ref[pl.ds(pl.multiple_of(j * tile, tile), tile), :]


def _window(d_ref: Any, tiles: jax.Array, tile: int) -> Any:
    """Rows of the distance keys for queries that stand so many tiles behind the keys."""
    last = d_ref.shape[0] - 2 * tile
    return pl.ds(pl.multiple_of(last - tiles * tile, tile), 2 * tile)


def _dot(a: jax.Array, b: jax.Array, transpose_a: bool = False, transpose_b: bool = False) -> jax.Array:
    dimensions = (((0,) if transpose_a else (1,), (1,) if transpose_b else (0,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
