"""One block of the transformer: pre-norm attention and pre-norm GEGLU, each with stochastic depth and dropout.

The norm is RMSNorm: Gopher, the same house's transformer whose shapes Gato shares, uses it, and it is one pass over the
residual stream less than LayerNorm, with the same quality (Zhang & Sennrich 2019). The paper says only "pre-norm".
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gato.model import attention, relative, rope
from gato.model.cache import LayerCache, append
from gato.model.config import ModelConfig
from gato.model.groups import by_group
from gato.sharding import constrain


class Context(flax.struct.PyTreeNode):
    """What all blocks share.

    Attributes:
      positions_BL: positions of the tokens in their segments, or in their rows of the cache.
      segments_BL: of training rows; None when decoding.
      length_B, valid_B: tokens in the cache before a decoded chunk, and real tokens of the chunk.
      index: number of a recent token; None when a chunk is decoded.
      visible_BLC: which of the cache's slots each token of the chunk sees.
      train: whether to drop paths and features.
    """

    positions_BL: jax.Array
    segments_BL: jax.Array | None = None
    length_B: jax.Array | None = None
    valid_B: jax.Array | None = None
    visible_BLC: jax.Array | None = None
    index: jax.Array | None = None
    train: bool = flax.struct.field(pytree_node=False, default=False)


Carry = tuple[jax.Array, LayerCache | None]


class Block(nn.Module):
    """x and the layer's cache -> the same behind the layer (the form that nn.scan wants)."""

    config: ModelConfig
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, carry: Carry, context: Context, hidden_at: jax.Array | None = None) -> tuple[Carry, None]:
        """With ``hidden_at`` [G, N], indices into the tokens of each group of rows, everything behind the attention's
        mixing is computed for these tokens alone: x leaves as [G, N, D].
        """
        x, cache = carry
        length = x.shape[1]
        update, cache = Attention(self.config, self.mesh, name="attention")(
            _norm("attention_norm", self.config)(x), cache, context, hidden_at
        )
        if hidden_at is not None:
            x = by_group(_take_tokens, x, hidden_at)
        row = None if hidden_at is None else hidden_at // length
        rows = context.positions_BL.shape[0]
        x = self._add(x, update, rows, row, context.train)
        update = FeedForward(self.config, self.mesh, name="feed_forward")(_norm("feed_forward_norm", self.config)(x))
        x = self._add(x, update, rows, row, context.train)
        return (x, cache), None

    def _add(self, x: jax.Array, update: jax.Array, rows: int, row: jax.Array | None, train: bool) -> jax.Array:
        """Residual sum. Stochastic depth (Huang et al. 2016) drops the sub-layer of a whole row."""
        if train and self.config.dropout:
            update = nn.Dropout(self.config.dropout, deterministic=False)(update)
        if train and self.config.stochastic_depth:
            keep = 1 - self.config.stochastic_depth
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (rows,)).astype(x.dtype) / keep
            if row is None:
                kept = kept[:, None, None]
            else:
                kept = by_group(lambda kept_b, row_N: kept_b[row_N], kept, row)[..., None]
            update = update * kept
        x = x + update
        return constrain(x, self.mesh, "batch", "length", "features")


class Attention(nn.Module):
    """Projections around `attention.attention` and `attention.cached_attention`."""

    config: ModelConfig
    mesh: Mesh | None

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, cache: LayerCache | None, context: Context, hidden_at: jax.Array | None
    ) -> tuple[jax.Array, LayerCache | None]:
        config, dtype = self.config, x_BLD.dtype
        width, heads, size = config.width, config.heads, config.head_dim
        q, k, v = (self._heads(x_BLD, name) for name in ("query", "key", "value"))
        position = None
        if config.position == "rope":
            table = rope.rotation(context.positions_BL, size)
            q, k = rope.rotate(q, table), rope.rotate(k, table)
        else:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads", "head_dim"))
            u_HK, v_HK = (self.param(name, zeros, (heads, size)).astype(dtype) for name in ("u", "v"))
            kernel = self.param("relative", _kernel(("embed", "heads", "head_dim"), inputs=1), (width, heads, size))
            if cache is None:
                keys_HMK = project_sinusoids(kernel, x_BLD.shape[1], dtype)
            else:
                assert cache.relative is not None
                keys_HMK = cache.relative
            position = attention.Position(q + v_HK[:, None], keys_HMK)
            q = q + u_HK[:, None]
        if cache is None:
            assert context.segments_BL is not None
            backend = "blocks" if self.is_initializing() else attention.choose(config, attention.platform(self.mesh))
            mixed = attention.attention(
                q, k, v, context.segments_BL, position, config.attention_block, backend, self.mesh
            )
        else:
            mixed, cache = _cached(q, k, v, position, cache, context)
        kernel = self.param("out", _kernel(("heads", "head_dim", "embed"), 2, config.layers), (heads, size, width))
        if hidden_at is None:
            out = _dense(mixed.swapaxes(1, 2).reshape(*x_BLD.shape[:2], heads * size), kernel)
            return out, cache
        mixed = by_group(_take_heads, mixed, hidden_at)
        return _dense(mixed.reshape(*hidden_at.shape, heads * size), kernel), cache

    def _heads(self, x_BLD: jax.Array, name: str) -> jax.Array:
        """[B, L, D] -> [B, H, L, K]."""
        config = self.config
        shape = (config.width, config.heads, config.head_dim)
        kernel = self.param(name, _kernel(("embed", "heads", "head_dim"), inputs=1), shape)
        x_BLHK = _dense(x_BLD, kernel).reshape(*x_BLD.shape[:2], *shape[1:])
        return constrain(x_BLHK.swapaxes(1, 2), self.mesh, "batch", "heads", "length", "head_dim")


def _cached(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    position: attention.Position | None,
    cache: LayerCache,
    context: Context,
) -> tuple[jax.Array, LayerCache]:
    """Writes a chunk into the cache, or a recent token beside it, and attends to both."""
    assert context.visible_BLC is not None
    first_B = context.positions_BL[:, 0]
    if cache.recent is None:
        assert context.length_B is not None
        assert context.valid_B is not None
        cache = cache.replace(
            k=append(cache.k, k, context.length_B, context.valid_B),
            v=append(cache.v, v, context.length_B, context.valid_B),
        )
        return attention.cached_attention(q, cache.k, cache.v, context.visible_BLC, first_B, position), cache
    assert context.index is not None
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(whole, new.swapaxes(2, 3), context.index, axis=3)
        for whole, new in zip(cache.recent, (k, v), strict=True)
    )
    mixed = attention.recent_attention(
        q, cache.k, cache.v, context.visible_BLC, first_B, position, (keys, values), context.index
    )
    return mixed, cache.replace(recent=(keys, values))


def project_sinusoids(kernel_DHK: jax.Array, length: int, dtype: jnp.dtype) -> jax.Array:
    """W_r R, the position keys of one layer for the distances 0 .. length-1: [H, length, K]."""
    table_MD = relative.sinusoids(length, kernel_DHK.shape[0]).astype(dtype)
    return jnp.einsum("md,dhk->hmk", table_MD, kernel_DHK.astype(dtype))


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020): D -> hidden, whose first half gates its second; hidden / 2 -> D."""

    config: ModelConfig
    mesh: Mesh | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, half = self.config.width, self.config.hidden // 2
        # Two kernels for the two halves: a slice of one product costs a padded sum in the backward pass.
        up = _kernel(("embed", "hidden"), inputs=1)
        gate, value = (_dense(x, self.param(name, up, (width, half))) for name in ("gate", "value"))
        down = self.param("down", _kernel(("hidden", "embed"), 1, self.config.layers), (half, width))
        return _dense(nn.gelu(gate) * value, down)


def _take_tokens(x_bLD: jax.Array, at_N: jax.Array) -> jax.Array:
    """The tokens b * L + l of a group: [N, D]."""
    return jnp.take(x_bLD.reshape(-1, x_bLD.shape[-1]), at_N, axis=0, mode="clip")


def _take_heads(mixed_bHLK: jax.Array, at_N: jax.Array) -> jax.Array:
    """The same tokens of an array with the heads before the length: [N, H, K]."""
    length = mixed_bHLK.shape[2]
    return mixed_bHLK[at_N // length, :, at_N % length]


def _dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., inputs] times a kernel whose axes, flattened, are [inputs, outputs].

    All leading axes become one: the kernel's gradient is then a plain matrix product, which is twice as fast on a CPU.
    """
    inputs = x.shape[-1]
    out = x.reshape(-1, inputs) @ kernel.reshape(inputs, -1).astype(x.dtype)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _norm(name: str, config: ModelConfig) -> nn.RMSNorm:
    init = nn.with_logical_partitioning(nn.initializers.ones, ("scale",))
    return nn.RMSNorm(dtype=config.dtype, scale_init=init, name=name)


def _kernel(names: tuple[str, ...], inputs: int, layers: int | None = None) -> nn.initializers.Initializer:
    """Normal with variance 1 / fan-in (the first `inputs` axes are the input).

    With `layers` it is the last matrix of a residual branch: its variance is divided by the number of branches,
    2 * layers, so that the stream's variance does not grow with the depth.
    """
    scale = 1.0 if layers is None else 1 / (2 * layers)
    axes = range(len(names))
    init = nn.initializers.variance_scaling(scale, "fan_in", "normal", in_axis=axes[:inputs], out_axis=axes[inputs:])
    return nn.with_logical_partitioning(init, names)
