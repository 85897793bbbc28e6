"""The compiled part of acting: append a chunk to the cache, then sample tokens one after the other on the device.

All functions are pure; their shapes and the legal ranges are static, so one embodiment needs one compilation. The cache
is donated: the call that appends to it owns it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gato.inference.sampling import ILLEGAL, Sampling, fold_each, sample
from gato.model import rope
from gato.model.cache import Cache, Recent, commit, init_recent
from gato.model.config import ModelConfig
from gato.model.transformer import GatoModel
from gato.tokenizers.token_sequence import ACTION_POSITION

Tokens = dict[str, jax.Array]
# [lo, hi) of the legal ids of every action token.
Ranges = tuple[tuple[int, int], ...]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def extend(
    config: ModelConfig,
    params: Any,
    cache: Cache,
    index: jax.Array | None,
    lengths: jax.Array,
    tokens: Tokens,
    valid: jax.Array,
) -> Cache:
    """Appends ``valid`` [n] tokens of a chunk [n, width] to rows ``index`` of the cache, which hold ``lengths``."""
    taken = _take(cache, index, lengths)
    _, taken = GatoModel(config).apply(params, tokens, taken, valid, method="extend")
    return _put(cache, index, lengths, taken, tokens["ids"].shape[1])


@functools.partial(jax.jit, static_argnames=("config", "ranges"), donate_argnames="cache")
def extend_and_act(
    config: ModelConfig,
    ranges: Ranges,
    params: Any,
    cache: Cache,
    index: jax.Array | None,
    lengths: jax.Array,
    tokens: Tokens,
    valid: jax.Array,
    key: jax.Array,
    draws: jax.Array,
    sampling: Sampling,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Appends a chunk whose last valid token precedes the action, and samples the action's A tokens, for n rows.

    Args:
      ranges: A legal ranges; each token is drawn from its own.
      index: int32 [n], rows of the cache; B or more: none, nothing is kept of this row. None: all rows, in order.
      lengths: int32 [n], tokens that the rows hold.
      tokens: [n, width] arrays of a batch; valid: int32 [n], 0 where a row does not act: it stays as it is.
      key, draws: a row's draws are a function of the key and of its two numbers in ``draws``, uint32 [n, 2].

    Returns:
      ids int32 [n, A], logits float32 [n, A, W] over ids ``lo .. lo + W`` (W the widest range; beyond a token's own
      range they are ILLEGAL), and the cache, which holds all but the last action token.
    """
    model = GatoModel(config)
    widest = max(hi - lo for lo, hi in ranges)
    keys = fold_each(fold_each(jnp.broadcast_to(key, valid.shape), draws[:, 0]), draws[:, 1])
    taken = _take(cache, index, lengths)

    def draw(hidden_BD: jax.Array, place: jax.Array | int, lo: int, hi: int) -> tuple[jax.Array, jax.Array]:
        logits_BV = model.apply(params, hidden_BD, lo, hi, method="logits")
        ids_B = lo + sample(logits_BV, fold_each(keys, place), sampling)
        return ids_B, jnp.pad(logits_BV, ((0, 0), (0, widest - (hi - lo))), constant_values=ILLEGAL)

    hidden_BND, taken = model.apply(params, tokens, taken, valid, method="extend")
    state = last_valid(hidden_BND, valid), init_recent(taken, len(ranges) - 1)
    parts = []
    start = 0
    # Tokens with the same range share one compiled body; the last token is drawn but not appended.
    for (lo, hi), group in itertools.groupby(ranges):
        stop = start + len(list(group))

        def speak(
            state: tuple[jax.Array, Recent], place: jax.Array, lo: int = lo, hi: int = hi
        ) -> tuple[tuple[jax.Array, Recent], tuple[jax.Array, jax.Array]]:
            drawn = draw(state[0], place, lo, hi)
            token = single(drawn[0], ACTION_POSITION)
            hidden_B1D, recent = model.apply(params, token, taken, state[1], place, method="speak")
            return (hidden_B1D[:, 0], recent), drawn

        places = range(start, min(stop, len(ranges) - 1))
        if places:
            state, drawn = jax.lax.scan(speak, state, jnp.array(places))
            parts.append(drawn)
        start = stop
    ids_B, logits_BV = draw(state[0], len(ranges) - 1, lo, hi)
    parts.append((ids_B[None], logits_BV[None]))
    ids_AB = jnp.concatenate([ids for ids, _ in parts])
    logits_ABW = jnp.concatenate([logits for _, logits in parts])
    taken = commit(taken, state[1], jnp.where(valid > 0, len(ranges) - 1, 0))
    cache = _put(cache, index, lengths, taken, tokens["ids"].shape[1] + len(ranges) - 1)
    return ids_AB.T, jnp.swapaxes(logits_ABW, 0, 1), cache


@jax.jit
def select_rows(cache: Cache, rows: jax.Array) -> Cache:
    """Row ``rows[i]`` of the cache becomes row i; a row may be taken more than once."""
    return _each(lambda part: part[rows], cache, length=cache.length[rows])


@functools.partial(jax.jit, donate_argnames="larger")
def grow(cache: Cache, larger: Cache) -> Cache:
    """What the cache holds, in a larger one."""

    def copy(new: jax.Array, old: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)

    return _each(copy, larger, cache, length=cache.length)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def take_back(config: ModelConfig, cache: Cache, by: jax.Array) -> Cache:
    """A ring whose rows' positions are smaller by ``by``, int32 [B], which are whole rounds: no token changes its slot.

    Transformer-XL only knows distances. With rope a key was turned by its position's angle: it is turned back.
    """
    if config.position != "rope":
        return cache
    table = rope.rotation(-by[:, None], config.head_dim)

    def turn(keys_BHKC: jax.Array) -> jax.Array:
        turned_BHCK = rope.rotate(keys_BHKC.swapaxes(2, 3).astype(jnp.float32), table)
        return turned_BHCK.swapaxes(2, 3).astype(keys_BHKC.dtype)

    return cache.replace(layers=tuple(layer.replace(k=turn(layer.k)) for layer in cache.layers))


def _each(function: Callable[..., jax.Array], *caches: Cache, length: jax.Array) -> Cache:
    """The first cache with the function of the keys, and of the values, of all in their place."""
    layers = (
        layer.replace(k=function(layer.k, *(o.k for o in others)), v=function(layer.v, *(o.v for o in others)))
        for layer, *others in zip(*(cache.layers for cache in caches), strict=True)
    )
    return dataclasses.replace(caches[0], layers=tuple(layers), length=length)


def _take(cache: Cache, index: jax.Array | None, lengths: jax.Array) -> Cache:
    """Some rows of the cache as a cache of their own."""
    if index is None:
        return dataclasses.replace(cache, length=lengths)
    return _each(lambda part: jnp.take(part, index, axis=0, mode="clip"), cache, length=lengths)


def _put(cache: Cache, index: jax.Array | None, lengths: jax.Array, taken: Cache, count: int) -> Cache:
    """The cache with what was appended to the taken rows, at most ``count`` tokens behind ``lengths``."""
    if index is None:
        return taken
    positions_BN = lengths[:, None] + jnp.arange(count)
    slots_BN = positions_BN % cache.capacity
    # Beyond the last row, which is dropped, goes what is not new.
    at = jnp.where(positions_BN < taken.length[:, None], index[:, None], len(cache.length))
    rows = jnp.arange(len(index))[:, None]

    def write(whole: jax.Array, part: jax.Array) -> jax.Array:
        return whole.at[at, :, :, slots_BN].set(part[rows, :, :, slots_BN], mode="drop")

    return _each(write, cache, taken, length=cache.length)


def last_valid(hidden_BND: jax.Array, valid: jax.Array) -> jax.Array:
    """The output at each row's last valid token, [B, D]."""
    return jnp.take_along_axis(hidden_BND, jnp.maximum(valid - 1, 0)[:, None, None], axis=1)[:, 0]


def single(ids_B: jax.Array, local_position: int) -> Tokens:
    """One token for each row, in the form of a batch without patches."""
    column = ids_B[:, None]
    return {
        "ids": column,
        "local_position": jnp.full_like(column, local_position),
        "patch_index": jnp.full_like(column, -1),
        "patch_intervals": jnp.zeros((*column.shape, 4), jnp.int16),
        "patches": jnp.zeros((0, 16, 16, 3), jnp.uint8),
    }
