"""The compiled part of acting: append a chunk to the cache, then sample tokens one after the other on the device.

All functions are pure; their shapes and the legal ranges are static, so one embodiment needs one compilation. The cache
is donated: the call that appends to it owns it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from gato.model.cache import Cache
from gato.model.config import ModelConfig
from gato.model.transformer import GatoModel
from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION

Tokens = dict[str, jax.Array]
# [lo, hi) of the legal ids of every action token.
Ranges = tuple[tuple[int, int], ...]
ILLEGAL = -1e30  # finite, so that a logit can be inspected; its probability is exactly 0 beside any legal one


def sample(logits_BV: jax.Array, key: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Index drawn from softmax(logits / temperature), int32 [B]; the largest logit where the temperature is 0."""
    temperature = jnp.asarray(temperature)
    drawn = jax.random.categorical(key, logits_BV / jnp.where(temperature > 0, temperature, 1.0), axis=-1)
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)


def sample_rows(logits_BV: jax.Array, keys_B: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """As `sample`, each row with its own key: what a row draws does not depend on the rows beside it."""
    return jax.vmap(sample, in_axes=(0, 0, None))(logits_BV, keys_B, jnp.asarray(temperature))


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def extend(config: ModelConfig, params: Any, cache: Cache, tokens: Tokens, valid: jax.Array) -> Cache:
    """Appends ``valid`` [B] tokens of a chunk [B, n] to each row, e.g. a prompt."""
    return GatoModel(config).apply(params, tokens, cache, valid, method="extend")[1]


@functools.partial(jax.jit, static_argnames=("config", "ranges"), donate_argnames="cache")
def extend_and_act(
    config: ModelConfig,
    ranges: Ranges,
    params: Any,
    cache: Cache,
    tokens: Tokens,
    valid: jax.Array,
    key: jax.Array,
    seeds: jax.Array,
    steps: jax.Array,
    temperature: jax.Array | float,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Appends a chunk whose last valid token precedes the action, and samples the action's A tokens.

    Args:
      ranges: A legal ranges; each token is drawn from its own.
      tokens: [B, n] arrays of a batch; valid: int32 [B], at least 1.
      key, seeds, steps: row b's draws are a function of the key, ``seeds[b]`` (uint32, of its episode) and ``steps[b]``
        (int32, timesteps of it so far).
      temperature: scalar; 0 is greedy.

    Returns:
      ids int32 [B, A], logits float32 [B, A, W] over ids ``lo .. lo + W`` (W the widest range; beyond a token's own
      range they are ILLEGAL), and the cache, which holds all but the last action token.
    """
    model = GatoModel(config)
    widest = max(hi - lo for lo, hi in ranges)
    one = jnp.ones_like(valid)
    keys_B = jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.fold_in(key, seed), step))(seeds, steps)

    def draw(hidden_BD: jax.Array, place: jax.Array | int, lo: int, hi: int) -> tuple[jax.Array, jax.Array]:
        logits_BV = model.apply(params, hidden_BD, lo, hi, method="logits")
        place_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, place)
        ids_B = lo + sample_rows(logits_BV, place_keys_B, temperature)
        return ids_B, jnp.pad(logits_BV, ((0, 0), (0, widest - (hi - lo))), constant_values=ILLEGAL)

    hidden_BND, cache = model.apply(params, tokens, cache, valid, method="extend")
    state = _last_valid(hidden_BND, valid), cache
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
    return ids_AB.T, jnp.swapaxes(logits_ABW, 0, 1), state[1]


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
    key: jax.Array,
    temperature: jax.Array | float,
) -> jax.Array:
    """Appends a chunk and writes text behind it until every row has ended or has ``limit`` tokens.

    Returns:
      int32 [B, limit]: text ids, and ``end`` from the end of each row's text on.
    """
    model = GatoModel(config)
    rows = valid.shape[0]

    def draw(hidden_BD: jax.Array, place: jax.Array) -> jax.Array:
        text_BV = model.apply(params, hidden_BD, 0, text_size, method="logits")
        end_B1 = model.apply(params, hidden_BD, end, end + 1, method="logits")
        index_B = sample(jnp.concatenate([text_BV, end_B1], axis=-1), jax.random.fold_in(key, place), temperature)
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
    return dataclasses.replace(cache, k=cache.k[:, rows], v=cache.v[:, rows], length=cache.length[rows])


def _last_valid(hidden_BND: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.take_along_axis(hidden_BND, (valid - 1)[:, None, None], axis=1)[:, 0]


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
