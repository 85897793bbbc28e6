"""Gato in the shape of a 7B model: `gato_79m` with a network of 6.2B parameters with rope (6.8B with transformer_xl).

Command   gato train --config=gato_7b:DATA --out runs/7b --config.mesh.fsdp=N     (DATA: a folder of `gato collect`)
Hardware  parameters, gradients and AdamW's moments are 99 GB: N chips that hold them together; `gato plan` says which
Time      1,000,000 steps of 512 rows of 1,024 tokens
Result    not measured by us
"""

from __future__ import annotations

from ml_collections import ConfigDict

from gato.launch.configs import gato_79m


def get_config(data: str = "data") -> ConfigDict:
    """`data`: folder of the stores; every store gets the same share of the tokens."""
    config = gato_79m.get_config(data)
    config.model.update({"preset": "gato_7b", "position": "rope"})
    return config
