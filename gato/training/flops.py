"""Analytic floating-point operations of a step.

A multiply-add counts as two. Causal attention is counted once (a query meets on average half of the row), and the head
only at the targets that it is computed for. XLA's own `cost_analysis` counts a scanned body once and is of no use
here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gato import chips
from gato.model.config import ModelConfig


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s; ``None`` where it is not known (`benchmarks/train.py` measures)."""
    chip = chips.find(device_kind)
    return chip.peak_flops if chip else None


def forward_flops(config: ModelConfig, rows: int, length: int, targets: int, patches: int = 0) -> dict[str, float]:
    """FLOPs of one forward pass by part.

    Args:
      rows, length: B and L, padding included.
      targets: positions that the head is computed for.
      patches: image patches that the ResNet runs on.
    """
    tokens, width, inner = rows * length, config.width, config.heads * config.head_dim
    pairs = rows * length * (length + 1) / 2  # causal (query, key) pairs
    relative = config.position == "transformer_xl"
    # Behind the attention of the last block, only the targets are computed (`hidden_at`).
    finished = (config.layers - 1) * tokens + targets
    # Query, key, value; output; Transformer-XL also projects the `length` relative positions once a layer.
    projections = 2 * width * inner * (3 * config.layers * tokens + finished)
    if relative:
        projections += 2 * width * inner * config.layers * length
    # q·k and weights·v, and the position term (q + v)·W_r R.
    scores = 2 * (3 if relative else 2) * inner * pairs * config.layers
    # GEGLU with the hidden size split in halves: D -> hidden, gate · value, hidden / 2 -> D.
    feed_forward = 2 * (width * config.hidden + config.hidden // 2 * width) * finished
    return {
        "projections": float(projections),
        "scores": float(scores),
        "feed_forward": float(feed_forward),
        "head": 2.0 * width * config.vocabulary_size * targets,
        "patches": float(_patch_flops(config) * patches),
    }


def train_flops(config: ModelConfig, rows: int, length: int, targets: int, patches: int = 0) -> float:
    """FLOPs of a training step: the backward pass costs twice the forward pass; recomputation does not count."""
    return 3.0 * sum(forward_flops(config, rows, length, targets, patches).values())


def batch_flops(config: ModelConfig, batch: Mapping[str, np.ndarray]) -> float:
    """`train_flops` of a batch (see `gato.data_pipelines.collate`), or of a process's part of one.

    Targets and patches count as many as there are; what else their buffers have room for is no useful work, though it
    is computed.
    """
    rows, length = batch["ids"].shape
    groups = len(batch["patches"])
    targets = int(np.count_nonzero(batch["target_weight"]))
    patches = int(batch["patch_index"].reshape(groups, -1).max(axis=1).sum()) + groups  # numbered from 0 in each
    return train_flops(config, rows, length, targets, patches)


def _patch_flops(config: ModelConfig) -> int:
    """One patch: stem convolution, one block of two 3x3 convolutions, mean pooling, a linear layer to D."""
    patch = config.patch
    side = 16 // patch.stride
    stem = side**2 * patch.kernel**2 * 3 * patch.width
    block = 2 * side**2 * 9 * patch.width**2
    return 2 * (stem + block + patch.pool**2 * patch.width * config.width)
