"""Parameters of scanned layers <-> of unrolled layers: the same numbers under other names.

Scanned: ``blocks`` with a leading axis of layers - 1, then ``last_block``. Unrolled: ``blocks_0``, ``blocks_1``, ...,
``last_block``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gato.model.config import ModelConfig


def unstack_layers(variables: Any, config: ModelConfig) -> Any:
    """Variables of ``scan_layers=True`` as ``scan_layers=False`` wants them. Unrolled ones are returned as they are."""
    params = dict(variables["params"])
    stacked = params.pop("blocks", None)
    for layer in range(config.layers - 1 if stacked is not None else 0):
        params[f"blocks_{layer}"] = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked)
    return {"params": params}


def stack_layers(variables: Any, config: ModelConfig) -> Any:
    """The inverse of `unstack_layers`."""
    params = dict(variables["params"])
    blocks = [params.pop(f"blocks_{layer}") for layer in range(config.layers - 1) if f"blocks_{layer}" in params]
    if blocks:
        params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return {"params": params}
