"""The compiled part of writing text: a prompt is appended to a cache, then tokens are sampled a few a call.

All functions are pure and their shapes static. What is drawn depends on a text's key and on the token's place only, so
a text is the same however many tokens a call writes. Only text ids and the end token can be drawn.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gato.inference.sampler import Tokens, last_valid, single
from gato.inference.sampling import Sampling, fold_each, sample
from gato.model.cache import Cache, commit, init_recent
from gato.model.config import ModelConfig
from gato.model.transformer import GatoModel
from gato.tokenizers.token_sequence import NO_POSITION


class Writing(flax.struct.PyTreeNode):
    """B texts under way.

    Attributes:
      cache: holds all their tokens.
      hidden_BD: the network's output at the last token of each, from which the next one is drawn.
      ended: bool [B], whose end token was drawn.
      place: int32 scalar, tokens drawn so far.
    """

    cache: Cache
    hidden_BD: jax.Array
    ended: jax.Array
    place: jax.Array


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def begin(config: ModelConfig, params: Any, cache: Cache, tokens: Tokens, valid: jax.Array) -> Writing:
    """Appends ``valid`` [B] >= 1 tokens of a chunk [B, n] to each row: what stands before the texts."""
    hidden_BND, cache = GatoModel(config).apply(params, tokens, cache, valid, method="extend")
    ended = jnp.zeros(valid.shape, bool)
    return Writing(cache, last_valid(hidden_BND, valid), ended, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnames=("config", "text_size", "end", "count"), donate_argnames="writing")
def write(
    config: ModelConfig,
    text_size: int,
    end: int,
    count: int,
    params: Any,
    writing: Writing,
    keys: jax.Array,
    sampling: Sampling,
) -> tuple[jax.Array, Writing]:
    """Writes on until every text has ended or is ``count`` tokens longer; the cache needs room for them.

    Args:
      keys: [B], of each text's draws.

    Returns:
      int32 [B, count]: text ids, and ``end`` from the end of each text on.
    """
    model = GatoModel(config)

    def draw(hidden_BD: jax.Array, place: jax.Array) -> jax.Array:
        text_BV = model.apply(params, hidden_BD, 0, text_size, method="logits")
        end_B1 = model.apply(params, hidden_BD, end, end + 1, method="logits")
        index_B = sample(jnp.concatenate([text_BV, end_B1], axis=-1), fold_each(keys, place), sampling)
        return jnp.where(index_B == text_size, end, index_B)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        index, ids_BN, hidden_BD, ended_B, recent = state
        id_B = jnp.where(ended_B, end, draw(hidden_BD, writing.place + index))
        ids_BN = jax.lax.dynamic_update_slice_in_dim(ids_BN, id_B[:, None], index, axis=1)
        token = single(id_B, NO_POSITION)
        hidden_B1D, recent = model.apply(params, token, writing.cache, recent, index, method="speak")
        return index + 1, ids_BN, hidden_B1D[:, 0], ended_B | (id_B == end), recent

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        return (state[0] < count) & ~jnp.all(state[3])

    ids_BN = jnp.full((len(writing.ended), count), end, jnp.int32)
    start = (jnp.zeros((), jnp.int32), ids_BN, writing.hidden_BD, writing.ended, init_recent(writing.cache, count))
    written, ids_BN, hidden_BD, ended_B, recent = jax.lax.while_loop(unfinished, step, start)
    cache = commit(writing.cache, recent, jnp.full_like(writing.cache.length, written))
    return ids_BN, Writing(cache, hidden_BD, ended_B, writing.place + written)
