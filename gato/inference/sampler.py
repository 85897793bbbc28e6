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

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from gato.model.cache import Cache
from gato.model.config import ModelConfig
from gato.model.transformer import GatoModel
from gato.tokenizers.errors import GatoError
from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION

Tokens = dict[str, jax.Array]
# [lo, hi) of the legal ids of every action token.
Ranges = tuple[tuple[int, int], ...]
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

    temperature: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray | None = None
    top_p: jax.Array | np.ndarray | None = None

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
        kept_BV &= jnp.arange(logits_BV.shape[-1]) < sampling.top_k
    if sampling.top_p is not None:
        probability_BV = jax.nn.softmax(jnp.where(kept_BV, descending_BV, ILLEGAL), axis=-1)
        kept_BV &= jnp.cumsum(probability_BV, axis=-1) - probability_BV < sampling.top_p
    least_B1 = jnp.take_along_axis(descending_BV, kept_BV.sum(axis=-1, keepdims=True) - 1, axis=-1)
    return jnp.where(logits_BV >= least_B1, logits_BV, ILLEGAL)


def fold_each(keys_B: jax.Array, data: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in` of one number into each row's key, or of each row's number."""
    return jax.vmap(jax.random.fold_in, (0, None if jnp.ndim(data) == 0 else 0))(keys_B, data)


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
    one = (valid > 0).astype(valid.dtype)
    keys = fold_each(fold_each(jnp.broadcast_to(key, valid.shape), draws[:, 0]), draws[:, 1])
    taken = _take(cache, index, lengths)

    def draw(hidden_BD: jax.Array, place: jax.Array | int, lo: int, hi: int) -> tuple[jax.Array, jax.Array]:
        logits_BV = model.apply(params, hidden_BD, lo, hi, method="logits")
        ids_B = lo + sample(logits_BV, fold_each(keys, place), sampling)
        return ids_B, jnp.pad(logits_BV, ((0, 0), (0, widest - (hi - lo))), constant_values=ILLEGAL)

    hidden_BND, taken = model.apply(params, tokens, taken, valid, method="extend")
    state = _last_valid(hidden_BND, valid), taken
    parts = []
    start = 0
    # Tokens with the same range share one compiled body; the last token is drawn but not appended.
    for (lo, hi), group in itertools.groupby(ranges):
        stop = start + len(list(group))

        def append(
            state: tuple[jax.Array, Cache], place: jax.Array, lo: int = lo, hi: int = hi
        ) -> tuple[tuple[jax.Array, Cache], tuple[jax.Array, jax.Array]]:
            drawn = draw(state[0], place, lo, hi)
            token = _single(drawn[0], ACTION_POSITION)
            hidden_B1D, cache = model.apply(params, token, state[1], one, method="extend")
            return (hidden_B1D[:, 0], cache), drawn

        places = range(start, min(stop, len(ranges) - 1))
        if places:
            state, drawn = jax.lax.scan(append, state, jnp.array(places))
            parts.append(drawn)
        start = stop
    ids_B, logits_BV = draw(state[0], len(ranges) - 1, lo, hi)
    parts.append((ids_B[None], logits_BV[None]))
    ids_AB = jnp.concatenate([ids for ids, _ in parts])
    logits_ABW = jnp.concatenate([logits for _, logits in parts])
    cache = _put(cache, index, lengths, state[1], tokens["ids"].shape[1] + len(ranges) - 1)
    return ids_AB.T, jnp.swapaxes(logits_ABW, 0, 1), cache


@functools.partial(jax.jit, static_argnames=("config", "text_size", "end", "limit"))
def extend_and_write(
    config: ModelConfig,
    text_size: int,
    end: int,
    limit: int,
    params: Any,
    cache: Cache,
    tokens: Tokens,
    valid: jax.Array,
    keys: jax.Array,
    sampling: Sampling,
) -> jax.Array:
    """Appends a chunk and writes text behind it until every row has ended or has ``limit`` tokens.

    Args:
      keys: [B], of each row's draws.

    Returns:
      int32 [B, limit]: text ids, and ``end`` from the end of each row's text on.
    """
    model = GatoModel(config)
    rows = valid.shape[0]

    def draw(hidden_BD: jax.Array, place: jax.Array) -> jax.Array:
        text_BV = model.apply(params, hidden_BD, 0, text_size, method="logits")
        end_B1 = model.apply(params, hidden_BD, end, end + 1, method="logits")
        index_B = sample(jnp.concatenate([text_BV, end_B1], axis=-1), fold_each(keys, place), sampling)
        return jnp.where(index_B == text_size, end, index_B)

    def write(state: tuple[Any, ...]) -> tuple[Any, ...]:
        place, hidden_BD, cache, ids_BN, ended_B = state
        id_B = jnp.where(ended_B, end, draw(hidden_BD, place))
        ids_BN = jax.lax.dynamic_update_slice_in_dim(ids_BN, id_B[:, None], place, axis=1)
        ended_B |= id_B == end
        token = _single(id_B, NO_POSITION)
        hidden_B1D, cache = model.apply(params, token, cache, 1 - ended_B.astype(jnp.int32), method="extend")
        return place + 1, hidden_B1D[:, 0], cache, ids_BN, ended_B

    hidden_BND, cache = model.apply(params, tokens, cache, valid, method="extend")
    start = (
        jnp.zeros((), jnp.int32),
        _last_valid(hidden_BND, valid),
        cache,
        jnp.full((rows, limit), end, jnp.int32),
        jnp.zeros((rows,), bool),
    )
    state = jax.lax.while_loop(lambda state: (state[0] < limit) & ~jnp.all(state[4]), write, start)
    return state[3]


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
        return whole.at[at, :, slots_BN].set(part[rows, :, slots_BN], mode="drop")

    return _each(write, cache, taken, length=cache.length)


def _last_valid(hidden_BND: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.take_along_axis(hidden_BND, jnp.maximum(valid - 1, 0)[:, None, None], axis=1)[:, 0]


def _single(ids_B: jax.Array, local_position: int) -> Tokens:
    """One token for each row, in the form of a batch without patches."""
    column = ids_B[:, None]
    return {
        "ids": column,
        "local_position": jnp.full_like(column, local_position),
        "patch_index": jnp.full_like(column, -1),
        "patch_intervals": jnp.zeros((*column.shape, 4), jnp.int16),
        "patches": jnp.zeros((0, 16, 16, 3), jnp.uint8),
    }
