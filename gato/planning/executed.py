"""Floating-point operations that a step executes, useful or not (`training.flops` counts the useful ones).

More are: targets and patches that there is room for and none of, what `remat` computes again, and in attention what
stands above the diagonal in a tile and what the backward pass computes again.
"""

from __future__ import annotations

from gato.model.attention import Backend, in_one_tile, tile_size
from gato.model.config import ModelConfig
from gato.training.config import TrainConfig
from gato.training.flops import forward_flops


def executed_flops(config: TrainConfig, backend: Backend, targets: int, patches: int) -> float:
    """Of a step, for so many targets and patches of the whole batch."""
    parts = forward_flops(config.model, config.batch_size, config.length, targets, patches)
    del parts["scores"]
    forward, backward = (config.batch_size * one for one in score_flops(config.model, backend, config.length))
    again = {"none": 0.0, "dots": forward, "full": forward + parts["projections"] + parts["feed_forward"]}
    return 3.0 * sum(parts.values()) + forward + backward + again[config.model.remat]


def score_flops(model: ModelConfig, backend: Backend, length: int) -> tuple[float, float]:
    """Of all layers' attention for one row, between queries, keys and values: forward and backward pass.

    Counted in products of the queries and keys of a tile. Whole tiles on and below the diagonal are computed.
    """
    relative = model.position == "transformer_xl"
    tile = tile_size(backend, length, model.attention_block)
    tiles = -(-length // tile)
    forward: float
    backward: float
    if in_one_tile(backend, length, model.attention_block):
        forward, backward = (3, 6) if relative else (2, 4)
    elif relative:
        # A tile meets twice as many distances as keys, so a product of the position term counts twice. Backward: scores
        # again (3), of weights, values, keys and queries (4), of both factors of the position term (4).
        forward, backward = 4, 11
        # The kernels make the position term and its gradient once for two tiles, but at the ends of their line. On GPUs
        # scores and weights' gradients are computed for each of three gradients, twice with both sides' distances.
        if backend in ("relative", "relative_v3"):
            forward, backward = 3 + 2 / (tiles + 1), 8 + 6 / (tiles + 1)
        if backend == "relative_triton":
            forward, backward = 3 + 2 / (tiles + 1), 17 + 4 / (tiles + 1)
    else:
        # Scores again, then of weights, values, keys and queries. The fused kernels go twice over the tiles, once for
        # queries and once for keys, and compute scores and weights' gradients each time.
        forward, backward = 2, 5 if backend in ("heads", "blocks") else 7
    product = 2.0 * model.heads * model.head_dim * tile**2 * tiles * (tiles + 1) / 2 * model.layers
    return forward * product, backward * product
