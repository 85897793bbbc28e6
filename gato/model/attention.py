"""Attention: training rows with segments, by one of several kernels, and a chunk of queries against a cache.

Heads stand before the length ([B, H, L, K]), the order in which both products are plain batched matrix products.

    backend          what runs                                   `choose` takes it on
    heads            `blockwise`, one head after the other       CPUs
    blocks           `blockwise`, all heads at once              everything that is not said below
    splash           JAX's splash attention (Pallas, Mosaic)     TPUs with rope; before v4 only with float32
    triton           JAX's Pallas attention (Triton)             GPUs with rope and bfloat16
    relative         `relative_kernel` (Pallas, Mosaic)          TPUs with transformer_xl, only if told "fused"
    relative_v3      the same on float32 copies                  TPUs before v4, whose kernels multiply nothing else
    relative_triton  `relative_triton` (Pallas, Triton)          GPUs with transformer_xl and bfloat16, likewise

The XLA ones compute short rows that fit in one tile as one masked square (`_one_tile`).
The fused ones are tested in interpret mode, by lowering, and by compiling for chips that are not there; none has run on
an accelerator yet.
"""

from __future__ import annotations

import functools
import re
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from gato.model import blockwise, relative
from gato.model.blockwise import MASKED, Position
from gato.model.config import ModelConfig, ModelError
from gato.sharding import partition

Backend = Literal["heads", "blocks", "splash", "triton", "relative", "relative_v3", "relative_triton"]

# Queries and keys in a tile. On a CPU it must stay in the cache; elsewhere small tiles of plain XLA go through memory
# more often (`gato plan` of the paper's step on a v3: 0.459 s of memory time with 128, 0.384 s with 512). Triton's is
# the largest that JAX tests for all of these head sizes, forward and backward; ours are not tuned on a chip, but
# relative_triton's is the largest that (nearly) stays in a GPU's registers, by its compiler.
TILES: dict[Backend, int] = {
    "heads": 128,
    "blocks": 512,
    "splash": 512,
    "triton": 64,
    "relative": 256,
    "relative_v3": 256,
    "relative_triton": 64,
}
_RELATIVE = ("relative", "relative_v3", "relative_triton")  # ours, which nobody has run on a chip
_SHORT = 128  # tokens of a row whose attention weights are kept for the backward pass

DESCRIPTIONS: dict[Backend, str] = {
    "heads": "tiles in plain XLA, head by head",
    "blocks": "tiles in plain XLA",
    "splash": "splash attention, a fused TPU kernel",
    "triton": "Pallas attention, a fused GPU kernel",
    "relative": "relative attention, a fused TPU kernel",
    "relative_v3": "relative attention in float32, a fused TPU kernel",
    "relative_triton": "relative attention, a fused GPU kernel",
}

# What the kernels are called in the text of a program, lowered or compiled.
_KERNEL_NAMES: dict[Backend, str] = {
    "splash": "splash_mha_fwd",
    "triton": "mha_forward",
    "relative": "relative_forward",
    "relative_v3": "relative_v3_forward",
    "relative_triton": "relative_triton_forward",
}


def platform(mesh: Mesh | AbstractMesh | None) -> str:
    """cpu, gpu, tpu, or tpu_v3 up to v3: of the mesh's devices, of this machine or described ones, or of the device
    that an abstract mesh names; else JAX's own."""
    if isinstance(mesh, AbstractMesh) and mesh.abstract_device is not None:
        device = mesh.abstract_device
    else:
        device = mesh.devices.flat[0] if isinstance(mesh, Mesh) and not mesh.empty else jax.local_devices()[0]
    generation = re.match(r"TPU v(\d)", device.device_kind)
    return "tpu_v3" if generation and int(generation[1]) < 4 else device.platform


def choose(config: ModelConfig, platform: str) -> Backend:
    """The backend of a model on a `platform`.

    Raises `ModelError` where ``config.attention`` is "fused" and no kernel fits.
    """
    kernel = fused_kernel(config, platform)
    if config.attention == "fused" and kernel is None:
        raise ModelError(
            f"model.attention 'fused': no kernel for position {config.position!r} and dtype {config.dtype!r} on "
            f"{platform}; use 'auto'"
        )
    if kernel is None or config.attention == "xla" or (config.attention == "auto" and kernel in _RELATIVE):
        return "heads" if platform == "cpu" else "blocks"
    return kernel


def describe(config: ModelConfig, platform: str) -> str:
    """What `choose` returns, in words, with the kernel that there would be."""
    text, kernel = DESCRIPTIONS[choose(config, platform)], fused_kernel(config, platform)
    if config.attention == "auto" and kernel in _RELATIVE:
        text += (
            f" (model.attention=fused takes {DESCRIPTIONS[kernel]}: faster by the plans, not yet run on a chip by us)"
        )
    return text


def fused_kernel(config: ModelConfig, platform: str) -> Backend | None:
    """What "fused" takes of the kernels in the table above, or None."""
    if platform in ("tpu", "tpu_v3"):
        if config.position == "transformer_xl":
            return "relative" if platform == "tpu" else "relative_v3"
        return "splash" if platform == "tpu" or config.dtype == "float32" else None  # kernels on a v3 want float32
    if platform == "gpu" and config.dtype == "bfloat16":
        return "triton" if config.position == "rope" else "relative_triton"
    return None


def tile_size(backend: Backend, length: int, block: int | None = None) -> int:
    """Queries and keys in one tile of a row of so many tokens; `block` is for the XLA backends."""
    if backend in ("heads", "blocks"):
        return min(block or TILES[backend], length)
    return min(TILES[backend], -(-length // 128) * 128)


def in_one_tile(backend: Backend, length: int, block: int | None = None) -> bool:
    """Whether a row is one masked square, whose weights are kept for the backward pass."""
    return backend in ("heads", "blocks") and length <= min(block or TILES[backend], _SHORT)


def fused_in(program: str) -> set[Backend]:
    """Which fused kernels the text of a lowered or compiled program (``as_text()``) calls.

    Only calls count: the names also stand where a program says which code an operation is from.
    """
    calls = [line for line in program.splitlines() if "custom_call" in line]  # compiled: custom_call_target=...
    return {backend for backend, name in _KERNEL_NAMES.items() if any(name in line for line in calls)}


def attention(
    q_BHLK: jax.Array,
    k_BHLK: jax.Array,
    v_BHLK: jax.Array,
    segments_BL: jax.Array,
    position: Position | None,
    block: int | None,
    backend: Backend = "blocks",
    mesh: Mesh | None = None,
) -> jax.Array:
    """Each token attends to itself and to earlier tokens of its own segment.

    Args:
      q_BHLK, k_BHLK, v_BHLK: queries (already with u added, or rotated), keys and values.
      segments_BL: integers from 0; tokens of different segments do not see each other.
      position: Transformer-XL's position term; its distances must reach L-1.
      block: queries and keys in one tile of the XLA backends; None: see `TILES`.
      backend: what `choose` returned.
      mesh: where rows and heads are split: every device then runs the kernel on its own.

    Returns:
      [B, H, L, K] in the dtype of the values. Scores and softmax are float32.
    """
    local = functools.partial(run, block=block, backend=backend)
    if mesh is None or mesh.size == 1:
        return local(q_BHLK, k_BHLK, v_BHLK, segments_BL, position)
    heads = partition(("batch", "heads", "length", "head_dim"), q_BHLK.shape, mesh)
    rows = partition(("batch", "length"), segments_BL.shape, mesh)
    terms = None
    if position is not None:
        keys = partition(("heads", "length", "head_dim"), position.keys_HMK.shape, mesh)
        terms = Position(heads, keys)  # type: ignore[arg-type]
    # The kernels' outputs do not say over which axes they vary, so that JAX cannot check it.
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(heads, heads, heads, rows, terms), out_specs=heads, check_vma=False
    )
    return split(q_BHLK, k_BHLK, v_BHLK, segments_BL, position)


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments_BL: jax.Array,
    position: Position | None,
    block: int | None,
    backend: Backend,
    interpret: bool = False,
) -> jax.Array:
    """`attention` on one device. With `interpret` the steps of a kernel are plain operations, on any platform."""
    if in_one_tile(backend, q.shape[2], block):
        return _one_tile(q, k, v, segments_BL, position)
    tile = tile_size(backend, q.shape[2], block)
    # Kernels are imported where they are used: the Pallas libraries take a while to load.
    if backend in ("splash", "triton"):
        from gato.model import fused

        kernel = fused.splash if backend == "splash" else fused.triton
        return kernel(q, k, v, segments_BL, tile, interpret)
    if backend in _RELATIVE:
        assert position is not None
        arrays = (q, k, v, segments_BL, position.queries_BHLK, position.keys_HMK)
        if backend == "relative_triton":
            from gato.model import relative_triton

            return relative_triton.attend(*arrays, tile, interpret)
        from gato.model import relative_kernel

        return relative_kernel.attend(*arrays, tile, interpret, backend == "relative_v3")
    return blockwise.attend(q, k, v, segments_BL, position, tile, backend == "heads")


def _one_tile(q: jax.Array, k: jax.Array, v: jax.Array, segments_BL: jax.Array, position: Position | None) -> jax.Array:
    """Rows that fit in one tile: its weights are kept for the backward pass, faster than to compute them again."""
    length = q.shape[2]
    scores_BHLL = _product(q, k)
    if position is not None:
        descending_HLK = position.keys_HMK[:, :length][:, ::-1]
        scores_BHLL += relative.shift_causal(_product(position.queries_BHLK, descending_HLK))
    same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
    return _mix((scores_BHLL, (same_BLL & jnp.tri(length, dtype=bool))[:, None], v))


def cached_attention(
    q_BHNK: jax.Array,
    k_BHKC: jax.Array,
    v_BHKC: jax.Array,
    visible_BNC: jax.Array,
    first_B: jax.Array,
    position: Position | None,
) -> jax.Array:
    """n queries of each row, the first at position ``first_B``, attend to the visible slots of its cache.

    Args:
      position: its keys are those of the distances C-1 .. 0, [H, K, C].

    Returns:
      [B, H, n, K].
    """
    scores_BHNC = _slot_product(q_BHNK, k_BHKC)
    if position is not None:
        scores_BHNC += relative.by_slot(_by_distance(position), first_B)
    return _mix((scores_BHNC, visible_BNC[:, None], v_BHKC), slots_last=True)


def recent_attention(
    q_BH1K: jax.Array,
    k_BHKC: jax.Array,
    v_BHKC: jax.Array,
    visible_B1C: jax.Array,
    first_B: jax.Array,
    position: Position | None,
    recent: tuple[jax.Array, jax.Array],
    index: jax.Array,
) -> jax.Array:
    """`cached_attention` of recent token number ``index``, at position ``first_B``, which also sees those up to itself.

    Args:
      recent: keys and values of T recent tokens, [B, H, K, T].
    """
    keys_BHKT, values_BHKT = recent
    count = keys_BHKT.shape[-1]
    scores_BH1C, recent_BH1T = _slot_product(q_BH1K, k_BHKC), _slot_product(q_BH1K, keys_BHKT)
    if position is not None:
        by_distance = _by_distance(position)
        scores_BH1C += relative.by_slot(by_distance, first_B)
        # Distances index .. 0 of the recent tokens 0 .. index stand side by side.
        start = by_distance.shape[-1] - 1 - index
        padded = jnp.pad(by_distance, ((0, 0), (0, 0), (0, 0), (0, count)))
        recent_BH1T += jax.lax.dynamic_slice_in_dim(padded, start, count, axis=-1).swapaxes(0, 1)
    parts = (scores_BH1C, visible_B1C[:, None], v_BHKC), (recent_BH1T, jnp.arange(count) <= index, values_BHKT)
    return _mix(*parts, slots_last=True)


def _product(q_BHQK: jax.Array, k: jax.Array) -> jax.Array:
    """Scaled scores, float32 [B, H, Q, M]; keys [B, H, M, K], or [H, M, K] for all rows."""
    scale = q_BHQK.shape[-1] ** -0.5
    formula = "bhqk,bhmk->bhqm" if k.ndim == 4 else "bhqk,hmk->bhqm"
    return jnp.einsum(formula, q_BHQK * scale, k, preferred_element_type=jnp.float32)


def _slot_product(q_BHQK: jax.Array, k_BHKM: jax.Array) -> jax.Array:
    """Scaled scores, float32 [B, H, Q, M], for keys whose slots stand last.

    Written out, since a transposed operand would be copied.
    """
    scale = q_BHQK.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bhkm->bhqm", q_BHQK * scale, k_BHKM, preferred_element_type=jnp.float32)


def _by_distance(position: Position) -> jax.Array:
    """Scaled scores of the position term, float32 [H, B, Q, M]: of all rows at once, since they share the keys,
    [H, K, M].
    """
    batch, heads, queries, size = position.queries_BHLK.shape
    q_HNK = (position.queries_BHLK * size**-0.5).swapaxes(0, 1).reshape(heads, batch * queries, size)
    scores_HNM = jnp.einsum("hnk,hkm->hnm", q_HNK, position.keys_HMK, preferred_element_type=jnp.float32)
    return scores_HNM.reshape(heads, batch, queries, -1)


def _mix(*parts: tuple[jax.Array, jax.Array, jax.Array], slots_last: bool = False) -> jax.Array:
    """Softmax over the allowed keys of all parts, times the values; a part is scores [B, H, Q, M], what is allowed, and
    values [B, H, M, K], or with `slots_last` [B, H, K, M].

    The division by the softmax's sum comes after the product with the values: on [Q, K] instead of [Q, M] numbers. The
    maximum only keeps exp in range and cancels exactly, so it carries no gradient.
    """
    masked = [jnp.where(allowed, scores, MASKED) for scores, allowed, _ in parts]
    largest_BHQ1 = functools.reduce(jnp.maximum, [scores.max(axis=-1, keepdims=True) for scores in masked])
    largest_BHQ1 = jax.lax.stop_gradient(largest_BHQ1)
    mixed_BHQK = sum_BHQ1 = jnp.zeros((), jnp.float32)
    formula = "bhqm,bhkm->bhqk" if slots_last else "bhqm,bhmk->bhqk"
    for scores_BHQM, (_, _, values) in zip(masked, parts, strict=True):
        weights_BHQM = jnp.exp(scores_BHQM - largest_BHQ1)
        mixed_BHQK += jnp.einsum(formula, weights_BHQM.astype(values.dtype), values, preferred_element_type=jnp.float32)
        sum_BHQ1 += weights_BHQM.sum(axis=-1, keepdims=True)
    return (mixed_BHQK / sum_BHQ1).astype(parts[0][2].dtype)
