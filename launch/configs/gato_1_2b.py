"""Gato at 1.18B parameters: `gato_79m` with the network of the paper's 1.18B model.

Command   gato train --config=gato_1_2b:DATA --out runs/1_2b --config.mesh.fsdp=N     (DATA: a folder of `gato collect`)
Hardware  N accelerators that hold parameters, AdamW's two moments and the activations together
Time      1,000,000 steps of 512 rows of 1,024 tokens
Result    not measured by us yet
"""

from __future__ import annotations

from ml_collections import ConfigDict

from gato.launch.configs import gato_79m


def get_config(data: str = "data") -> ConfigDict:
    """`data`: folder of the stores; every store gets the same share of the tokens."""
    config = gato_79m.get_config(data)
    config.model.preset = "gato_1_2b"
    return config
