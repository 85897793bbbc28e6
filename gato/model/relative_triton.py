"""Transformer-XL attention as fused GPU kernels (Pallas, Triton): scores live in registers and shared memory only.

How scores by distance become scores by key is said in `relative_tiles`; here one gather of columns rotates all rows.
Sums run in a fixed order, without atomics: gradients of queries, of keys and of distances have a kernel each, which
computes a tile's weights again. The rest is `blockwise` again.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from gato.model import relative
from gato.model.blockwise import MASKED, pad
from gato.model.relative_tiles import from_left, iota, seen
from gato.model.triton_gather import take_columns

_DISTANCES = 4  # the place of the distance keys among the inputs; all rows share them
_NARROWEST = 16  # columns of a matrix product in Triton; a power of 2 beyond


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
      tile: queries and keys in one, a power of 2 from 16.
      interpret: runs the kernels' steps as plain operations, on any platform (slow; for tests).
    """
    return _forward(q_BHLK, k_BHLK, v_BHLK, segments_BL, queries_BHLK, keys_HMK, tile, interpret)[0]


def _forward(q, k, v, segments_BL, queries, keys_HMK, tile, interpret):
    length, size = q.shape[2:]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile)
    call = _Call(inputs[0].shape, tile, size**-0.5, interpret)
    out, logsum = call(_forward_kernel, inputs, [call.rows(q.dtype), call.numbers()])
    out, logsum = out[:, :, :length, :size], logsum[:, :, :length]
    return out, (q, k, v, segments_BL, queries, keys_HMK, out, logsum)


def _backward(tile, interpret, saved, dout_BHLK):
    q, k, v, segments_BL, queries, keys_HMK, out_BHLK, logsum_BHL = saved
    length, size = q.shape[2:]
    inputs = _inputs(q, k, v, segments_BL, queries, keys_HMK, tile)
    call = _Call(inputs[0].shape, tile, size**-0.5, interpret)
    inner_BHL = (out_BHLK.astype(jnp.float32) * dout_BHLK.astype(jnp.float32)).sum(axis=-1)
    padded, width = inputs[0].shape[2:]
    inputs = (*inputs, pad(pad(dout_BHLK, 2, padded), 3, width), *(pad(x, 2, padded) for x in (logsum_BHL, inner_BHL)))
    dq, dqueries = call(_queries_kernel, inputs, [call.rows(q.dtype)] * 2)
    dk, dv = call(_keys_kernel, inputs, [call.rows(q.dtype)] * 2)
    left, right = call(_distances_kernel, inputs, [call.rows(jnp.float32)] * 2)
    # Tile t of the right distances and tile t - 1 of the left ones are the same; in descending order t falls.
    left, right = (x.sum(axis=0).reshape(x.shape[1], -1, tile, width)[:, ::-1] for x in (left, right))
    ends = (0, 1), (1, 0)
    left, right = (jnp.pad(x, ((0, 0), end, (0, 0), (0, 0))) for x, end in zip((left, right), ends, strict=True))
    ddescending = (left + right).reshape(left.shape[0], padded + tile, width)[..., :size]
    dkeys_HLK = relative.ascending(ddescending, length, tile)
    dq, dqueries, dk, dv = (x[:, :, :length, :size] for x in (dq, dqueries, dk, dv))
    return dq, dk, dv, None, dqueries, pad(dkeys_HLK, 1, keys_HMK.shape[1]).astype(keys_HMK.dtype)


attend.defvjp(_forward, _backward)


def _inputs(q, k, v, segments_BL, queries, keys_HMK, tile):
    """Arrays of whole tiles: q, queries, k, v, distance keys in descending order, segments."""
    length, size = q.shape[2:]
    padded = -(-length // tile) * tile
    width = max(_NARROWEST, pl.next_power_of_2(size))
    descending = pad(relative.descending_tiles(keys_HMK, length, tile), 2, width)
    q, queries, k, v = (pad(pad(x, 2, padded), 3, width) for x in (q, queries, k, v))
    return q, queries, k, v, descending, pad(segments_BL, 1, padded, value=-1)


class _Call:
    """Runs a kernel for each tile of each head of each row; it sees all of a head, and writes its own tile."""

    def __init__(self, shape: tuple[int, ...], tile: int, scale: float, interpret: bool) -> None:
        self.shape, self.tile, self.interpret = shape, tile, interpret
        self.scale = scale * math.log2(math.e)  # GPUs have a power of 2, no exp

    def rows(self, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, dtype)

    def numbers(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape[:3], jnp.float32)

    def __call__(self, kernel: Any, inputs: tuple[jax.Array, ...], outputs: list[jax.ShapeDtypeStruct]) -> Any:
        batch, heads, length, _ = self.shape
        return pl.pallas_call(
            functools.partial(kernel, tile=self.tile, scale=self.scale),
            grid=(length // self.tile, batch, heads),
            in_specs=[self._whole(x, shared=x is inputs[_DISTANCES]) for x in inputs],
            out_specs=[
                pl.BlockSpec((None, None, self.tile, *x.shape[3:]), lambda i, b, h, n=x.ndim: (b, h, i, 0)[:n])
                for x in outputs
            ],
            out_shape=outputs,
            interpret=self.interpret,
            name=f"relative_triton{kernel.__name__.removesuffix('_kernel')}",
            # Four warps would have too few registers for a tile of 64.
            compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=2),
        )(*inputs)

    def _whole(self, x: jax.Array, shared: bool) -> pl.BlockSpec:
        if x.ndim == 2:  # segments
            return pl.BlockSpec((None, x.shape[1]), lambda i, b, h: (b, 0))
        if shared:
            return pl.BlockSpec((None, *x.shape[1:]), lambda i, b, h: (h, 0, 0))
        return pl.BlockSpec((None, None, *x.shape[2:]), lambda i, b, h, n=x.ndim: (b, h, 0, 0)[:n])


def _forward_kernel(q_ref, queries_ref, k_ref, v_ref, d_ref, segments_ref, out_ref, logsum_ref, *, tile, scale):
    i = pl.program_id(0)
    q_NK, queries_NK, segments_N = (_tile(x, i, tile) for x in (q_ref, queries_ref, segments_ref))

    def step(j, carry):
        left_NN, largest_N, sum_N, mixed_NK = carry
        right_NN = _dot(queries_NK, _distances(d_ref, i - j, tile).T)
        scores_NN = _dot(q_NK, _tile(k_ref, j, tile).T) + _align(left_NN, right_NN)
        scores_NN = _mask(scores_NN * scale, segments_N, _tile(segments_ref, j, tile), i - j)
        new_N = jnp.maximum(largest_N, scores_NN.max(axis=1))
        weights_NN = jnp.exp2(scores_NN - new_N[:, None])
        shrink_N = jnp.exp2(largest_N - new_N)
        added_NK = _dot(weights_NN.astype(v_ref.dtype), _tile(v_ref, j, tile))
        return right_NN, new_N, shrink_N * sum_N + weights_NN.sum(axis=1), shrink_N[:, None] * mixed_NK + added_NK

    left_NN = _dot(queries_NK, _distances(d_ref, i + 1, tile).T)
    start = (left_NN, jnp.full(tile, MASKED), jnp.zeros(tile), jnp.zeros(q_NK.shape, jnp.float32))
    # In the last tile, the diagonal one, every query meets itself; what masked tiles before it added is scaled by 0.
    _, largest_N, sum_N, mixed_NK = jax.lax.fori_loop(0, i + 1, step, start)
    out_ref[...] = (mixed_NK / sum_N[:, None]).astype(out_ref.dtype)
    logsum_ref[...] = largest_N + jnp.log2(sum_N)


def _queries_kernel(*refs, tile, scale):
    *inputs, dq_ref, dqueries_ref = refs
    q_ref, queries_ref, k_ref, _, d_ref, *_ = inputs
    i = pl.program_id(0)
    queries_NK = _tile(queries_ref, i, tile)
    of_left_NN = from_left(tile)

    def step(j, carry):
        left_NN, before_NN, dq_NK, dqueries_NK = carry
        right_NN = _dot(queries_NK, _distances(d_ref, i - j, tile).T)
        _, dscores_NN = _gradients(inputs, i, j, left_NN, right_NN, tile, scale)
        dq_NK += _dot(dscores_NN, _tile(k_ref, j, tile))
        # The left distances are the right ones of the tile of keys before.
        turned_NN = _turn_back(dscores_NN)
        dby_distance_NN = jnp.where(of_left_NN, turned_NN, before_NN)
        dqueries_NK += _dot(dby_distance_NN, _distances(d_ref, i - j + 1, tile))
        return right_NN, turned_NN, dq_NK, dqueries_NK

    left_NN = _dot(queries_NK, _distances(d_ref, i + 1, tile).T)
    zeros_NK = jnp.zeros(queries_NK.shape, jnp.float32)
    start = (left_NN, jnp.zeros((tile, tile), q_ref.dtype), zeros_NK, zeros_NK)
    _, last_NN, dq_NK, dqueries_NK = jax.lax.fori_loop(0, i + 1, step, start)
    last_NN = jnp.where(of_left_NN, jnp.zeros_like(last_NN), last_NN)
    dqueries_NK += _dot(last_NN, _distances(d_ref, 0, tile))
    dq_ref[...] = (dq_NK * _plain(scale)).astype(dq_ref.dtype)
    dqueries_ref[...] = (dqueries_NK * _plain(scale)).astype(dqueries_ref.dtype)


def _keys_kernel(*refs, tile, scale):
    *inputs, dk_ref, dv_ref = refs
    q_ref, queries_ref, _, _, d_ref, _, dout_ref, *_ = inputs
    j = pl.program_id(0)

    def step(i, carry):
        dk_NK, dv_NK = carry
        left_NN, right_NN = _both_sides(queries_ref, d_ref, i, j, tile)
        weights_NN, dscores_NN = _gradients(inputs, i, j, left_NN, right_NN, tile, scale)
        dv_NK += _dot(weights_NN.T, _tile(dout_ref, i, tile))
        dk_NK += _dot(dscores_NN.T, _tile(q_ref, i, tile))
        return dk_NK, dv_NK

    zeros_NK = jnp.zeros(dk_ref.shape, jnp.float32)
    dk_NK, dv_NK = jax.lax.fori_loop(j, q_ref.shape[0] // tile, step, (zeros_NK, zeros_NK))
    dk_ref[...] = (dk_NK * _plain(scale)).astype(dk_ref.dtype)
    dv_ref[...] = dv_NK.astype(dv_ref.dtype)


def _distances_kernel(*refs, tile, scale):
    *inputs, left_ref, right_ref = refs
    q_ref, queries_ref, _, _, d_ref, *_ = inputs
    apart = pl.program_id(0)
    of_left_NN = from_left(tile)

    def step(i, carry):
        dleft_NK, dright_NK = carry
        left_NN, right_NN = _both_sides(queries_ref, d_ref, i, i - apart, tile)
        _, dscores_NN = _gradients(inputs, i, i - apart, left_NN, right_NN, tile, scale)
        turned_NN, queries_NK = _turn_back(dscores_NN), _tile(queries_ref, i, tile)
        zeros_NN = jnp.zeros_like(turned_NN)
        dleft_NK += _dot(jnp.where(of_left_NN, turned_NN, zeros_NN).T, queries_NK)
        dright_NK += _dot(jnp.where(of_left_NN, zeros_NN, turned_NN).T, queries_NK)
        return dleft_NK, dright_NK

    zeros_NK = jnp.zeros(left_ref.shape, jnp.float32)
    dleft_NK, dright_NK = jax.lax.fori_loop(apart, q_ref.shape[0] // tile, step, (zeros_NK, zeros_NK))
    left_ref[...] = dleft_NK * _plain(scale)
    right_ref[...] = dright_NK * _plain(scale)


def _gradients(inputs, i, j, left_NN, right_NN, tile, scale):
    """Weights of the i-th tile of queries for the j-th of keys, and the gradients of their scores before scaling."""
    q_ref, _, k_ref, v_ref, _, segments_ref, dout_ref, logsum_ref, inner_ref = inputs
    scores_NN = _dot(_tile(q_ref, i, tile), _tile(k_ref, j, tile).T) + _align(left_NN, right_NN)
    scores_NN = _mask(scores_NN * scale, _tile(segments_ref, i, tile), _tile(segments_ref, j, tile), i - j)
    weights_NN = jnp.exp2(scores_NN - _tile(logsum_ref, i, tile)[:, None])
    dweights_NN = _dot(_tile(dout_ref, i, tile), _tile(v_ref, j, tile).T)
    dscores_NN = weights_NN * (dweights_NN - _tile(inner_ref, i, tile)[:, None])
    return weights_NN.astype(q_ref.dtype), dscores_NN.astype(q_ref.dtype)


def _both_sides(queries_ref, d_ref, i, j, tile):
    """Products of the i-th tile of queries with the left and the right distances to the j-th tile of keys."""
    queries_NK = _tile(queries_ref, i, tile)
    return tuple(_dot(queries_NK, _distances(d_ref, i - j + side, tile).T) for side in (1, 0))


def _align(left_NN: jax.Array, right_NN: jax.Array) -> jax.Array:
    """Scores by distance -> scores by key."""
    tile = len(left_NN)
    columns_NN = (iota(1, tile) - iota(0, tile)) & (tile - 1)
    return take_columns(jnp.where(from_left(tile), left_NN, right_NN), columns_NN)


def _turn_back(by_key_NN: jax.Array) -> jax.Array:
    """The transpose of `_align`, where left and right still lie over one another."""
    tile = len(by_key_NN)
    return take_columns(by_key_NN, (iota(1, tile) + iota(0, tile)) & (tile - 1))


def _mask(scores_NN, segments_N, other_segments_N, apart):
    tile = len(segments_N)
    return jnp.where(seen(tile, apart) & (segments_N[:, None] == other_segments_N[None, :]), scores_NN, MASKED)


def _plain(scale: float) -> float:
    """Of scores whose exponential is a power of e."""
    return scale * math.log(2)


def _tile(ref: Any, i: jax.Array, tile: int) -> jax.Array:
    return ref[pl.ds(i * tile, tile)] if len(ref.shape) == 1 else ref[pl.ds(i * tile, tile), :]


def _distances(d_ref: Any, apart: jax.Array | int, tile: int) -> jax.Array:
    """The right distance keys of tiles so far apart, the left ones of tiles one less: [N, K]."""
    return _tile(d_ref, d_ref.shape[0] // tile - 1 - apart, tile)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
