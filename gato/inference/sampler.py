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
from gato.tokenizers.token_sequence import ACTION_POSITION

Tokens = dict[str, jax.Array]
# [lo, hi) of the legal ids of every action token.
Ranges = tuple[tuple[int, int], ...]
ILLEGAL = -1e30  # finite, so that a logit can be inspected; its probability is exactly 0 beside any legal one


def sample(logits_BV: jax.Array, key: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Index drawn from softmax(logits / temperature), int32 [B]; the largest logit where the temperature is 0."""
    temperature = jnp.asarray(temperature)
    drawn = jax.random.categorical(key, logits_BV / jnp.where(temperature > 0, temperature, 1.0), axis=-1)
    return jnp.where(temperature > 0, drawn, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)


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
    call: jax.Array | int,
    temperature: jax.Array | float,
) -> tuple[jax.Array, jax.Array, Cache]:
    """Appends a chunk whose last valid token precedes the action, and samples the action's A tokens.

    Args:
      ranges: A legal ranges; each token is drawn from its own.
      tokens: [B, n] arrays of a batch; valid: int32 [B], at least 1.
      key, call: the draws are a function of both; ``call`` counts the calls.
      temperature: scalar; 0 is greedy.

    Returns:
      ids int32 [B, A], logits float32 [B, A, W] over ids ``lo .. lo + W`` (W the widest range; beyond a token's own
      range they are ILLEGAL), and the cache, which holds all but the last action token.
    """
    model = GatoModel(config)
    widest = max(hi - lo for lo, hi in ranges)
    one = jnp.ones_like(valid)
    key = jax.random.fold_in(key, call)

    def draw(hidden_BD: jax.Array, place: jax.Array | int, lo: int, hi: int) -> tuple[jax.Array, jax.Array]:
        logits_BV = model.apply(params, hidden_BD, lo, hi, method="logits")
        ids_B = lo + sample(logits_BV, jax.random.fold_in(key, place), temperature)
        return ids_B, jnp.pad(logits_BV, ((0, 0), (0, widest - (hi - lo))), constant_values=ILLEGAL)

    hidden_BND, cache = model.apply(params, tokens, cache, valid, method="extend")
    state = last_valid(hidden_BND, valid), cache
    parts = []
    start = 0
    # Tokens with the same range share one compiled body; the last token is drawn but not appended.
    for (lo, hi), group in itertools.groupby(ranges):
        stop = start + len(list(group))

        def append(
            state: tuple[jax.Array, Cache], place: jax.Array, lo: int = lo, hi: int = hi
        ) -> tuple[tuple[jax.Array, Cache], tuple[jax.Array, jax.Array]]:
            drawn = draw(state[0], place, lo, hi)
            token = single(drawn[0], ACTION_POSITION)
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


@jax.jit
def select_rows(cache: Cache, rows: jax.Array) -> Cache:
    """Row ``rows[i]`` of the cache becomes row i; a row may be taken more than once."""
    return dataclasses.replace(cache, k=cache.k[:, rows], v=cache.v[:, rows], length=cache.length[rows])


def last_valid(hidden_BND: jax.Array, valid: jax.Array) -> jax.Array:
    """The output at each row's last valid token, [B, D]."""
    return jnp.take_along_axis(hidden_BND, (valid - 1)[:, None, None], axis=1)[:, 0]


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
