"""Parameters of scanned layers as those of unrolled layers: the same numbers under other names.

Scanned: ``blocks`` with a leading axis of layers - 1, then ``last_block``. Unrolled: ``blocks_0``, ``blocks_1``, ...,
``last_block``.
"""

from __future__ import annotations

from typing import Any

import jax

from gato.model.config import ModelConfig


def unstack_layers(variables: Any, config: ModelConfig) -> Any:
    """Variables of ``scan_layers=True`` as ``scan_layers=False`` wants them. Unrolled ones are returned as they are."""
    params = dict(variables["params"])
    stacked = params.pop("blocks", None)
    for layer in range(config.layers - 1 if stacked is not None else 0):
        params[f"blocks_{layer}"] = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked)
    return {"params": params}


def unrolled(config: ModelConfig, variables: Any) -> tuple[ModelConfig, Any]:
    """The same network with unrolled layers, as acting wants it: where layers are stacked in one array, every token's
    pass would copy them out of it. Nothing is copied if they are unrolled already.
    """
    return config.replace(scan_layers=False), unstack_layers(variables, config)
