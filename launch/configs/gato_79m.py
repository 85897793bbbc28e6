"""Gato at 79M parameters with the paper's numbers (section 2.3, appendix C), over the stores of one folder.

Command   gato train --config=gato_79m:DATA --out runs/79m        (DATA: a folder that `gato collect` filled)
Hardware  accelerators; --config.mesh.fsdp=N shares the parameters out over N of them
Time      1,000,000 steps of 512 rows of 1,024 tokens; shorten with --config.steps and --config.optimizer.decay_steps
Result    not measured by us yet
"""

from __future__ import annotations

from ml_collections import ConfigDict

from gato.launch.config import default_config, sources_in


def get_config(data: str = "data") -> ConfigDict:
    """`data`: folder of the stores; every store gets the same share of the tokens."""
    config = default_config()
    config.model.update({"preset": "gato_79m", "position": "transformer_xl", "dtype": "bfloat16", "remat": "full"})
    # No expert filter: what `gato collect` writes comes from the expert alone, and its returns differ by how soon the
    # episode was cut after its success. Set 0.8, the paper's, for data of learning agents.
    config.sources = sources_in(data, held_out_episodes=5, expert_filter=None)
    config.log_every = 50
    config.checkpoint_every = 5_000
    config.validation_every = 5_000
    return config
