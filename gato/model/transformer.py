"""The network: tokens -> hidden states -> logits, for training rows and for decoding with a cache."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gato.model.blocks import Block, Context
from gato.model.cache import Cache, LayerCache, Recent, key_positions
from gato.model.config import ModelConfig, ModelError
from gato.model.embedding import Embedding
from gato.sharding import constrain

Batch = Mapping[str, jax.Array]


class GatoModel(nn.Module):
    """A decoder-only transformer over token sequences (Gato sections 2.2 and 2.3).

    Variables (`init_params`) are ``{"params": {...}}``; call ``GatoModel(config).apply(variables, batch)``, or with
    ``method="logits"`` or ``method="extend"``.

    Attributes:
      config: shapes and arithmetic.
      mesh: where activations are pinned when there are several devices; None or a mesh of one: nowhere.
    """

    config: ModelConfig
    mesh: Mesh | None = None

    def setup(self) -> None:
        config = self.config
        block = _block(config)
        if config.scan_layers and config.layers > 1:
            scanned = nn.scan(
                _block(config, in_loop=True),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=config.layers - 1,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            self.blocks = scanned(config, self.mesh)
        elif config.layers > 1:
            self.blocks = [block(config, self.mesh) for _ in range(config.layers - 1)]
        self.last_block = block(config, self.mesh)  # apart, because it may run on the targets alone
        self.embedding = Embedding(config, self.mesh)
        norm_init = nn.with_logical_partitioning(nn.initializers.ones, ("scale",))
        self.norm = nn.RMSNorm(dtype=config.dtype, scale_init=norm_init)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(self, batch: Batch, train: bool = False, hidden_at: jax.Array | None = None) -> jax.Array:
        """Hidden states of packed rows, after the last norm.

        Args:
          batch: ids int32, local_position, segment_ids, positions, patch_index [B, L], patch_intervals [B, L, 4],
            patches uint8 [G, P, 16, 16, 3]; other entries are ignored. P may be 0; the three patch entries may be
            absent. `groups` says what G is.
          train: needs ``rngs={"position": key}`` and, with stochastic depth or dropout, ``"dropout"``.
          hidden_at: int32 [G, N], indices b * L + l into each group's rows. Only these tokens' states are finished:
            the last block's output projection and feed-forward skip all others. Exact, gradients included.

        With one group, `patches` may come without the axis G.

        Returns:
          [B, L, D], or [G, N, D] with `hidden_at`.
        """
        x_BLD = self.dropout(self.embedding(batch, train), deterministic=not train)
        x_BLD = constrain(x_BLD, self.mesh, "batch", "length", "features")
        context = Context(batch["positions"], segments_BL=batch["segment_ids"], train=train)
        x, _ = self._run(x_BLD, None, context, hidden_at)
        return self.norm(x)

    def logits(self, hidden: jax.Array, lo: int = 0, hi: int | None = None) -> jax.Array:
        """[..., D] -> float32 logits [..., hi - lo] of the ids lo .. hi-1; lo and hi are Python integers."""
        return self.embedding.logits(hidden, lo, hi)

    def extend(self, tokens: Batch, cache: Cache, valid: jax.Array) -> tuple[jax.Array, Cache]:
        """Appends a chunk of n tokens to every row of a cache. The layers must be unrolled, see `layers.unrolled`.

        Args:
          tokens: ids, local_position [B, n] and, where there are patches, patch_index, patch_intervals, patches: the
            same fields as a batch.
          cache: keys and values so far; token t of row b stands at position ``cache.length[b] + t``.
          valid: int32 [B], how many of the n tokens of each row are real; the rest changes nothing. The caller keeps
            ``length + valid <= capacity``, or, where the cache has a span, ``n <= capacity - span + 1``.

        Returns:
          hidden [B, n, D] (meaningless where not valid) and the longer cache.
        """
        if self.config.scan_layers:
            raise ModelError("extend: a cache needs unrolled layers: config, params = unrolled(config, params)")
        count = tokens["ids"].shape[1]
        if count + (cache.span or 1) - 1 > cache.capacity:
            seen = "" if cache.span is None else f" whose tokens see {cache.span} each"
            raise ModelError(
                f"extend: a chunk of {count} tokens in a cache of capacity {cache.capacity}{seen}; use a larger one"
            )
        positions_BN = cache.length[:, None] + jnp.arange(count)
        length = cache.length + valid
        visible_BNC = _visible(cache, length, positions_BN)
        context = Context(positions_BN, length_B=cache.length, valid_B=valid, visible_BLC=visible_BNC)
        x, layers = self._run(self.embedding(tokens, train=False), cache.layers, context, None)
        assert layers is not None
        return self.norm(x), cache.replace(layers=layers, length=length)

    def speak(self, tokens: Batch, cache: Cache, recent: Recent, index: jax.Array) -> tuple[jax.Array, Recent]:
        """One more recent token of every row, number ``index``, at position ``cache.length + index``.

        Args:
          tokens: as `extend` takes them, [B, 1]. cache: is not changed. recent: with the tokens before this one.

        Returns:
          hidden [B, 1, D] and the recent tokens with this one.
        """
        positions_B1 = cache.length[:, None] + index
        context = Context(positions_B1, visible_BLC=_visible(cache, cache.length, positions_B1), index=index)
        old = tuple(layer.replace(recent=new) for layer, new in zip(cache.layers, recent, strict=True))
        x, layers = self._run(self.embedding(tokens, train=False), old, context, None)
        return self.norm(x), tuple(layer.recent for layer in layers or () if layer.recent is not None)

    def _run(
        self,
        x: jax.Array,
        layers: tuple[LayerCache, ...] | None,
        context: Context,
        hidden_at: jax.Array | None,
    ) -> tuple[jax.Array, tuple[LayerCache, ...] | None]:
        if self.config.layers > 1 and self.config.scan_layers:
            (x, _), _ = self.blocks((x, None), context)
            (x, _), _ = self.last_block((x, None), context, hidden_at)
            return x, None
        blocks = [*(self.blocks if self.config.layers > 1 else ()), self.last_block]
        done = []
        for i, block in enumerate(blocks):
            last = (hidden_at,) if i == len(blocks) - 1 else ()
            (x, layer), _ = block((x, None if layers is None else layers[i]), context, *last)
            done.append(layer)
        return x, None if layers is None else tuple(done)


def _block(config: ModelConfig, in_loop: bool = False) -> type[Block]:
    """`Block`, of which the backward pass computes again what ``config.remat`` says."""
    if config.remat == "none":
        return Block
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if config.remat == "dots" else None
    # Outside a loop XLA would find both computations, make one of them and keep its results after all.
    return nn.remat(Block, prevent_cse=not in_loop, policy=policy)


def _visible(cache: Cache, length_B: jax.Array, positions_BN: jax.Array) -> jax.Array:
    """Which slots of a cache of so many tokens the tokens at these positions see, bool [B, N, capacity]."""
    keys_BC = key_positions(cache, length_B)
    distance_BNC = positions_BN[:, :, None] - keys_BC[:, None]
    visible_BNC = (keys_BC >= 0)[:, None] & (distance_BNC >= 0)
    return visible_BNC if cache.span is None else visible_BNC & (distance_BNC < cache.span)


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: ModelConfig, key: jax.Array) -> Any:
    """The model's variables ``{"params": {...}}``, float32; jit it with `out_shardings` to create them in place."""
    return nn.meta.unbox(GatoModel(config).init({"params": key}, _example(), method=_touch))


@functools.lru_cache(maxsize=8)  # tracing the initialisation takes a second; a search of meshes asks hundreds of times
def boxed_params(config: ModelConfig) -> Any:
    """Shapes of the variables, each in a box with the names of its axes (`gato.sharding`)."""
    return jax.eval_shape(
        lambda key: GatoModel(config).init({"params": key}, _example(), method=_touch), jax.random.key(0)
    )


def abstract_params(config: ModelConfig) -> Any:
    """Shapes and dtypes of `init_params`; nothing is allocated."""
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def _touch(model: GatoModel, batch: Batch) -> jax.Array:
    return model(batch)


def _example() -> dict[str, jax.Array]:
    """The smallest batch that meets every parameter."""
    zeros = jnp.zeros((1, 1), jnp.int32)
    return {
        **dict.fromkeys(("ids", "local_position", "segment_ids", "positions", "patch_index"), zeros),
        "patch_intervals": jnp.zeros((1, 1, 4), jnp.int32),
        "patches": jnp.zeros((1, 16, 16, 3), jnp.uint8),
    }
