"""Transformer-XL attention as one fused TPU kernel (Pallas): scores live in the chip's vector memory only.

How scores by distance become scores by key is said in `relative_tiles`; here rows are rotated eight at a time, the rows
of a vector register, and then by what distinguishes these eight. TPUs from v5 on could rotate each row by one more in
one operation, but not back, and older ones cannot at all. The rest is `blockwise` again.

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

from gato.model import relative
from gato.model.blockwise import MASKED, pad
from gato.model.relative_tiles import from_left, seen

Arrays = tuple[jax.Array, ...]
_REGISTER = 8  # rows of float32 numbers


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def attend(
    q_BHLK: jax.Array,
    k_BHLK: jax.Array,
    v_BHLK: jax.Array,
    segments_BL: jax.Array,
    queries_BHLK: jax.Array,
    keys_HMK: jax.Array,
    tile: int,
    interpret: bool,
    widened: bool = False,
) -> jax.Array:
    """`attention.attention` with a position term.

    Args:
      queries_BHLK, keys_HMK: as in `attention.Position`; M >= L.
      tile: queries and keys in one, a multiple of 128.
      interpret: runs the kernel's steps as plain operations, on any platform (slow; for tests).
      widened: the kernels get float32 copies: on a TPU v3 they multiply nothing else.
    """
    return _forward(q_BHLK, k_BHLK, v_BHLK, segments_BL, queries_BHLK, keys_HMK, tile, interpret, widened)[0]


def _forward(q, k, v, segments_BL, queries, keys_HMK, tile, interpret, widened):
    length = q.shape[2]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile, widened)
    batch, heads, padded, size = inputs[0].shape
    specs = _Specs(padded, size, tile)
    out, logsum = pl.pallas_call(
        functools.partial(_forward_kernel, scale=size**-0.5),
        grid=(heads, batch, padded // tile),
        in_specs=specs.inputs(),
        out_specs=[specs.rows(size), specs.rows(1)],
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, padded, size), inputs[0].dtype),
            jax.ShapeDtypeStruct((batch, heads, padded, 1), jnp.float32),
        ],
        interpret=interpret,
        name=f"relative{widened * '_v3'}_forward",
    )(*inputs)
    out = out[:, :, :length].astype(q.dtype)
    return out, (q, k, v, segments_BL, queries, keys_HMK, out, logsum[:, :, :length, 0])


def _backward(tile, interpret, widened, saved, dout_BHLK):
    q, k, v, segments_BL, queries, keys_HMK, out_BHLK, logsum_BHL = saved
    length = q.shape[2]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile, widened)
    batch, heads, padded, size = inputs[0].shape
    specs = _Specs(padded, size, tile)
    inner_BHL = (out_BHLK.astype(jnp.float32) * dout_BHLK.astype(jnp.float32)).sum(axis=-1)
    rest = (
        pad(dout_BHLK, 2, padded).astype(inputs[0].dtype),
        *(pad(x, 2, padded)[..., None] for x in (logsum_BHL, inner_BHL)),
    )
    whole = jax.ShapeDtypeStruct((batch, heads, padded, size), jnp.float32)
    dq, dqueries, dk, dv, ddescending = pl.pallas_call(
        functools.partial(_backward_kernel, scale=size**-0.5),
        grid=(heads, batch, padded // tile),
        in_specs=[*specs.inputs(), specs.rows(size), specs.rows(1), specs.rows(1)],
        out_specs=[specs.rows(size), specs.rows(size), specs.whole(), specs.whole(), specs.distances()],
        out_shape=[
            jax.ShapeDtypeStruct(whole.shape, inputs[0].dtype),
            jax.ShapeDtypeStruct(whole.shape, inputs[0].dtype),
            whole,
            whole,
            jax.ShapeDtypeStruct((heads, padded + tile, size), jnp.float32),
        ],
        interpret=interpret,
        name=f"relative{widened * '_v3'}_backward",
    )(*inputs, *rest)
    dq, dqueries, dk, dv = (x[:, :, :length].astype(q.dtype) for x in (dq, dqueries, dk, dv))
    dkeys_HLK = relative.ascending(ddescending, length, tile)
    return dq, dk, dv, None, dqueries, pad(dkeys_HLK, 1, keys_HMK.shape[1]).astype(keys_HMK.dtype)


attend.defvjp(_forward, _backward)


def _inputs(q, k, v, segments_BL, queries, keys_HMK, tile, widened):
    """Arrays of whole tiles: q, queries, k, v, distance keys in descending order, segments as column and as row."""
    length = q.shape[2]
    padded = -(-length // tile) * tile
    descending = relative.descending_tiles(keys_HMK, length, tile)
    segments_BL = pad(segments_BL, 1, padded, value=-1)
    arrays = (*(pad(x, 2, padded) for x in (q, queries, k, v)), descending)
    if widened:
        arrays = tuple(x.astype(jnp.float32) for x in arrays)
    return *arrays, segments_BL[:, :, None], segments_BL[:, None]


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

    def step(j: jax.Array, carry: Arrays) -> Arrays:
        left_NN, largest_N1, sum_N1, mixed_NK = carry
        right_NN = _dot(queries_ref[...], _distances(d_ref, i - j, tile), transpose_b=True)
        scores_NN = _tile_scores(q_ref, k_ref, column_ref, row_ref, left_NN, right_NN, i, j, scale)
        new_N1 = jnp.maximum(largest_N1, scores_NN.max(axis=-1, keepdims=True))
        weights_NN = jnp.exp(scores_NN - new_N1)
        shrink_N1 = jnp.exp(largest_N1 - new_N1)
        added_NK = _dot(weights_NN.astype(v_ref.dtype), _rows(v_ref, j, tile))
        sum_N1 = shrink_N1 * sum_N1 + weights_NN.sum(axis=-1, keepdims=True)
        return right_NN, new_N1, sum_N1, shrink_N1 * mixed_NK + added_NK

    left_NN = _dot(queries_ref[...], _distances(d_ref, i + 1, tile), transpose_b=True)
    start = (left_NN, jnp.full((tile, 1), MASKED), jnp.zeros((tile, 1)), jnp.zeros((tile, size)))
    # In the last tile, the diagonal one, every query meets itself; what masked tiles before it added is scaled by 0.
    _, largest_N1, sum_N1, mixed_NK = jax.lax.fori_loop(0, i + 1, step, start)
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

    @pl.when(i == 0)
    def _() -> None:
        dk_ref[...] = jnp.zeros_like(dk_ref)
        dv_ref[...] = jnp.zeros_like(dv_ref)

    @pl.when((batch == 0) & (i == 0))  # the distance keys are shared by the rows of the batch
    def _() -> None:
        dd_ref[...] = jnp.zeros_like(dd_ref)

    def add_distances(dby_distance_NN: jax.Array, apart: jax.Array | int) -> jax.Array:
        rows = _tile(d_ref, apart, tile)
        dd_ref[rows, :] += _dot(dby_distance_NN, queries_ref[...], transpose_a=True)
        return _dot(dby_distance_NN, d_ref[rows, :])

    def step(j: jax.Array, carry: Arrays) -> Arrays:
        left_NN, before_NN, dq_NK, dqueries_NK = carry
        right_NN = _dot(queries_ref[...], _distances(d_ref, i - j, tile), transpose_b=True)
        scores_NN = _tile_scores(q_ref, k_ref, column_ref, row_ref, left_NN, right_NN, i, j, scale)
        weights_NN = jnp.exp(scores_NN - logsum_ref[...])
        dweights_NN = _dot(dout_ref[...], _rows(v_ref, j, tile), transpose_b=True)
        dscores_NN = weights_NN * (dweights_NN - inner_ref[...]) * scale
        keys = pl.ds(pl.multiple_of(j * tile, tile), tile)
        dv_ref[keys, :] += _dot(weights_NN.astype(dtype), dout_ref[...], transpose_a=True)
        dk_ref[keys, :] += _dot(dscores_NN.astype(dtype), q_ref[...], transpose_a=True)
        dq_NK += _dot(dscores_NN.astype(dtype), _rows(k_ref, j, tile))
        # The left distances are the right ones of the tile of keys before.
        turned_NN = _rotate(dscores_NN, backwards=True)
        dby_distance_NN = jnp.where(from_left(tile), turned_NN, before_NN).astype(dtype)
        return right_NN, turned_NN, dq_NK, dqueries_NK + add_distances(dby_distance_NN, i - j + 1)

    left_NN = _dot(queries_ref[...], _distances(d_ref, i + 1, tile), transpose_b=True)
    zeros_NN, zeros_NK = jnp.zeros((tile, tile)), jnp.zeros((tile, size))
    _, last_NN, dq_NK, dqueries_NK = jax.lax.fori_loop(0, i + 1, step, (left_NN, zeros_NN, zeros_NK, zeros_NK))
    last_NN = jnp.where(from_left(tile), zeros_NN, last_NN).astype(dtype)
    dq_ref[...] = dq_NK.astype(dtype)
    dqueries_ref[...] = (dqueries_NK + add_distances(last_NN, 0)).astype(dtype)


def _tile_scores(q_ref, k_ref, column_ref, row_ref, left_NN, right_NN, i, j, scale):
    """Scaled, masked float32 scores [N, N] of the i-th tile of queries for the j-th tile of keys."""
    tile = q_ref.shape[0]
    aligned_NN = _rotate(jnp.where(from_left(tile), left_NN, right_NN), backwards=False)
    scores_NN = (_dot(q_ref[...], _rows(k_ref, j, tile), transpose_b=True) + aligned_NN) * scale
    same_NN = column_ref[...] == row_ref[:, pl.ds(pl.multiple_of(j * tile, tile), tile)]
    return jnp.where(same_NN & seen(tile, i - j), scores_NN, MASKED)


def _rotate(x_NN: jax.Array, backwards: bool) -> jax.Array:
    """Row a is rotated by a columns to the right, or backwards."""
    tile = len(x_NN)

    def by(x: jax.Array, columns: int) -> jax.Array:
        return pltpu.roll(x, -columns % tile if backwards else columns, 1)

    x_NN = jnp.concatenate([by(x_NN[row : row + _REGISTER], row) for row in range(0, tile, _REGISTER)])
    rows_NN = jax.lax.broadcasted_iota(jnp.int32, x_NN.shape, 0)
    for columns in (1, 2, 4):
        x_NN = jnp.where(rows_NN & columns != 0, by(x_NN, columns), x_NN)
    return x_NN


def _rows(ref: Any, j: jax.Array, tile: int) -> jax.Array:
    return ref[pl.ds(pl.multiple_of(j * tile, tile), tile), :]


def _tile(d_ref: Any, apart: jax.Array | int, tile: int) -> Any:
    """Rows of the distance keys that are right of tiles so far apart, and left of tiles one less."""
    first = d_ref.shape[0] - tile - apart * tile
    return pl.ds(first if isinstance(first, int) else pl.multiple_of(first, tile), tile)


def _distances(d_ref: Any, apart: jax.Array | int, tile: int) -> jax.Array:
    return d_ref[_tile(d_ref, apart, tile), :]


def _dot(a: jax.Array, b: jax.Array, transpose_a: bool = False, transpose_b: bool = False) -> jax.Array:
    dimensions = (((0,) if transpose_a else (1,), (1,) if transpose_b else (0,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
