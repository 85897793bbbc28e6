"""What a step needs, worked out from the shapes alone: where nothing can be compiled, and to choose what to compile.

Rough where the compiler decides: which activations are kept, and when weights are gathered again.
"""

from __future__ import annotations

from typing import Any

from gato.model.attention import Backend, tile_size
from gato.planning.collectives import Collective
from gato.tokenizers.image import PATCH
from gato.training.config import TrainConfig
from gato.training.cost import Memory, device_bytes
from gato.training.loss import LOGITS_BYTES

# Bytes that attention in plain XLA moves for each number of a tile of scores, in a forward and in a backward pass. In
# XLA's plans of the 79M and the 1.18B step on a v5e, with remat full, twice the first and the second make 160 and 186.
TILE_BYTES = {"transformer_xl": (40, 90), "rope": (20, 50)}  # rope's: a guess, for fewer and smaller products
# Maps of the patch encoder's side x side x width that are there at once, for the backward pass. XLA's plans have 6.8 on
# a v5e; and 12 on an H200, where cuDNN's convolutions take in nothing of what stands before and behind them.
PATCH_MAPS = {"tpu": 7, "gpu": 12}


def memory(
    config: TrainConfig,
    mesh: dict[str, int],
    backend: Backend,
    platform: str,
    state: Any,
    batch: Any,
    targets: int,
    patches: int,
) -> Memory:
    """Of one device.

    Args:
      platform: "tpu" or "gpu".
      state, batch: `compiled_step.abstract_arguments`. targets, patches: of one group of rows.
    """
    model = config.model
    tokens = config.batch_size * config.length // (mesh["data"] * mesh["fsdp"] * config.accumulate)
    itemsize = 2 if model.dtype == "bfloat16" else 4
    inner, half = model.heads * model.head_dim // mesh["tensor"], model.hidden // 2 // mesh["tensor"]
    # Two norms and two residual sums; queries (two with Transformer-XL), keys, values, mixed; gate, value, product.
    queries = 5 if model.position == "transformer_xl" else 4
    block = (4 * model.width + queries * inner + 3 * half) * itemsize * tokens
    rows = tokens // config.length
    scores = 0
    if backend == "blocks":
        # One block of queries against the row, float32: scores, weights and their gradients.
        tile = tile_size(backend, config.length, model.attention_block)
        scores = 4 * rows * model.heads // mesh["tensor"] * tile * config.length * 4
    inputs = model.width * itemsize * tokens
    # Queries, keys, values and what the attention leaves behind; gate and value.
    products = inputs + (3 * inner + 2 * half) * itemsize * tokens
    # What JAX's differentiation keeps of a block: around norms and sums, in float32 too; the feed-forward's eight.
    residuals = (model.width * (6 * 4 + 6 * itemsize) + (queries * inner + 8 * half) * itemsize) * tokens
    kept = {
        "none": residuals * model.layers,
        "dots": (inputs + products) * model.layers + block,
        "full": inputs * model.layers + block,
    }[model.remat]
    logits = 2 * min(targets * model.vocabulary_size // mesh["tensor"] * 4, LOGITS_BYTES)
    # Of the micro-batches so far, and of this one.
    gradients = device_bytes(state.params) * (2 if config.accumulate > 1 else 1)
    arguments = device_bytes((state, batch))
    return Memory(
        arguments=arguments,
        outputs=device_bytes(state),
        aliased=device_bytes(state),
        temporaries=gradients + kept + scores + logits + PATCH_MAPS[platform] * _patch_map(config) * patches,
        program=0,
    )


def collectives(config: TrainConfig, mesh: dict[str, int], parameters: int) -> list[Collective]:
    """What data, fsdp and tensor parallelism have to send in one step.

    fsdp: weights are gathered for the forward and for the backward pass and their gradients scattered; data: gradients
    are summed; tensor: activations are summed after the attention and after the feed-forward, in both passes.
    """
    model = config.model
    itemsize = 2 if model.dtype == "bfloat16" else 4
    data, fsdp, tensor = mesh["data"], mesh["fsdp"], mesh["tensor"]
    tokens = config.batch_size * config.length // (data * fsdp)
    found = []

    def add(kind: str, axis: str, size: float, runs: int) -> None:
        group = mesh[axis]
        if group > 1:
            share = (group - 1) / group
            found.append(Collective(kind, axis, group, round(size * share * runs), runs, "shapes"))

    passes = 2 * config.accumulate
    add("all-gather", "fsdp", parameters / tensor * itemsize, passes)
    add("reduce-scatter", "fsdp", parameters / tensor * itemsize, config.accumulate)
    add("all-reduce", "data", 2 * parameters / tensor / fsdp * 4, config.accumulate)
    sums = 4 + (2 if model.remat == "full" else 0)
    add("all-reduce", "tensor", 2 * tokens * model.width * itemsize, sums * model.layers)
    return sorted(found, key=lambda one: -one.bytes)


def memory_traffic(
    config: TrainConfig, mesh: dict[str, int], backend: Backend, platform: str, state: Any, patches: int
) -> int:
    """Bytes between a device and its memory: weights in each pass, the optimizer's state, activations both ways.

    Args:
      patches: of one group of rows.
    """
    model = config.model
    itemsize = 2 if model.dtype == "bfloat16" else 4
    tokens = config.batch_size * config.length // (mesh["data"] * mesh["fsdp"])
    weights = device_bytes(state.params) // 4 * itemsize * mesh["fsdp"]
    inner, half = model.heads * model.head_dim // mesh["tensor"], model.hidden // 2 // mesh["tensor"]
    touched = 2 * (8 * model.width + 6 * inner + 4 * half) * itemsize * tokens * model.layers
    # With "dots" the second forward pass reads the products instead of the weights.
    passes, again = 4 if model.remat == "full" else 3, model.remat != "none"
    # Maps are written and read, in the forward pass and twice as often in the backward pass.
    encoder = 3 * 2 * PATCH_MAPS[platform] * _patch_map(config) * patches * config.accumulate
    scores = 0
    if backend == "blocks":  # a fused kernel's scores never leave the chip
        forward, backward = TILE_BYTES[model.position]
        tile = tile_size(backend, config.length, model.attention_block)
        tiles = -(-config.length // tile)
        numbers = tokens // config.length * model.heads // mesh["tensor"] * tile**2 * tiles * (tiles + 1) // 2
        scores = numbers * model.layers * (forward * (1 + again) + backward)
    return weights * passes * config.accumulate + 3 * device_bytes(state) + touched * (3 + again) + encoder + scores


def _patch_map(config: TrainConfig) -> int:
    """Bytes of one map of a patch's features: each number of the encoder's width at each place."""
    patch = config.model.patch
    return (PATCH // patch.stride) ** 2 * patch.width * (2 if config.model.dtype == "bfloat16" else 4)
