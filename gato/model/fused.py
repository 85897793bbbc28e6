"""The fused attention kernels that come with JAX, for rope: splash attention on TPUs, Pallas-Triton on GPUs.

Both take segment ids, so packed rows stay apart, and skip what lies above the diagonal. Rows are padded to whole tiles
with a segment of their own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

PADDING_SEGMENT = -1


def splash(
    q_BHLK: jax.Array, k_BHLK: jax.Array, v_BHLK: jax.Array, segments_BL: jax.Array, tile: int, interpret: bool = False
) -> jax.Array:
    """`attention.attention` without a position term, on a TPU.

    Args:
      tile: queries and keys in one.
      interpret: runs the kernel's steps as plain operations, on any platform (slow; for tests).
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length, size = q_BHLK.shape[1:]
    q, k, v, segments_BL = _whole_tiles((q_BHLK * size**-0.5, k_BHLK, v_BHLK), segments_BL, tile)
    padded = q.shape[2]
    sizes = kernel.BlockSizes(
        block_q=tile,
        block_kv=tile,
        block_q_dkv=tile,
        block_kv_dkv=tile,
        block_q_dq=tile,
        block_kv_dq=tile,
    )
    causal = masks.MultiHeadMask([masks.CausalMask((padded, padded))] * heads)
    run = kernel.make_splash_mha(causal, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    ids = kernel.SegmentIds(q=segments_BL, kv=segments_BL)
    return jax.vmap(run)(q, k, v, ids)[:, :, :length]


def triton(
    q_BHLK: jax.Array, k_BHLK: jax.Array, v_BHLK: jax.Array, segments_BL: jax.Array, tile: int, interpret: bool = False
) -> jax.Array:
    """`attention.attention` without a position term, on an NVIDIA GPU; for 16-bit numbers.

    cuDNN is no choice for packed rows: JAX's public function takes a mask instead of segments, which it turns into an
    additive [B, 1, L, L] whose gradient is computed too, and the packed form behind it saves one float32 statistic
    for every pair of a segment slot and a token.
    """
    from jax.experimental.pallas.ops.gpu import attention as kernel

    length, size = q_BHLK.shape[2:]
    q, k, v, segments_BL = _whole_tiles((q_BHLK, k_BHLK, v_BHLK), segments_BL, tile)
    out_BLHK = kernel.mha(
        *(x.swapaxes(1, 2) for x in (q, k, v)),
        segments_BL,
        sm_scale=size**-0.5,
        causal=True,
        block_sizes=kernel.BlockSizes(tile, tile, tile, tile, tile, tile),
        interpret=interpret,
    )
    return out_BLHK.swapaxes(1, 2)[:, :, :length]


def _whole_tiles(
    arrays: tuple[jax.Array, jax.Array, jax.Array], segments_BL: jax.Array, tile: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    extra = -segments_BL.shape[1] % tile
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0))) for x in arrays)
    return q, k, v, jnp.pad(segments_BL, ((0, 0), (0, extra)), constant_values=PADDING_SEGMENT)
