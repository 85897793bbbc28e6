"""The paper's mixture (Table 1) with the paper's largest network, over the stores of one folder.

Command   gato train --config=mixtures/gato_paper:DATA --out runs/paper
Hardware  256 or more accelerators; --config.mesh.fsdp=N shares the parameters out over N of them
Time      1,000,000 steps of 512 rows of 1,024 tokens: 524 billion tokens
Result    not measured by us: most of the paper's data were never published

DATA has a folder for each domain, named as in `WEIGHTS`, with the domain's stores anywhere below it:
``DATA/meta_world/reach/store.json``. A domain's weight is shared by its stores in proportion to their timesteps, so
that its tasks are visited as they would be in one large store. Domains that are missing are listed, and nothing is
trained, until ``mixtures/gato_paper:DATA,redistribute`` gives their weight to those that are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gato.fields import ConfigError
from gato.launch.config import default_config, domain_in, stores_in

# Domain -> per cent of the tokens.
CONTROL = {
    "dm_lab": 9.35,
    "atari": 9.5,
    "atari_extended": 10.0,
    "sokoban": 1.33,
    "babyai": 9.06,
    "dm_control": 4.62,
    "dm_control_pixels": 7.07,
    "dm_control_random_small": 3.04,
    "dm_control_random_large": 3.04,
    "meta_world": 8.96,
    "procgen": 5.34,
    "rgb_stacking_sim": 1.33,
    "rgb_stacking_real": 1.33,
    "modular_rl": 8.23,
    "dm_manipulation_playground": 1.68,
    "playroom": 1.33,
}
TEXT_AND_IMAGES = {
    "massive_text": 6.7,
    "m3w": 4.0,
    **dict.fromkeys(("align", "ms_coco", "conceptual_captions", "ltip", "ok_vqa", "vqa_v2"), 0.67),
}
WEIGHTS = {**CONTROL, **TEXT_AND_IMAGES}


def get_config(argument: str = "data") -> ConfigDict:
    """`argument`: folder of the domains, and ",redistribute" if some may be missing."""
    folder, _, word = argument.partition(",")
    if word not in ("", "redistribute"):
        raise ConfigError(f"mixtures/gato_paper:{argument}: after the folder may stand ',redistribute', not {word!r}")
    config = default_config()
    config.model.update({"preset": "gato_1_2b", "position": "transformer_xl", "dtype": "bfloat16", "remat": "full"})
    config.sources = sources(folder, redistribute=bool(word))
    config.log_every = 50
    config.checkpoint_every = 5_000
    config.validation_every = 5_000
    return config


def sources(folder: str, redistribute: bool = False) -> list[dict[str, Any]]:
    """A source for every store below ``folder/DOMAIN``. Raises ConfigError that lists the missing domains."""
    there = [domain for domain in WEIGHTS if next(stores_in(Path(folder, domain)), None) is not None]
    missing = [domain for domain in WEIGHTS if domain not in there]
    if not there:
        raise ConfigError(f"{folder}: holds none of the paper's domains; name folders {', '.join(WEIGHTS)}")
    if missing and not redistribute:
        share = sum(WEIGHTS[domain] for domain in missing)
        raise ConfigError(
            f"{folder}: missing {', '.join(missing)} ({share:.2f} % of the tokens); import them, or give their weight "
            f"to the others with --config=mixtures/gato_paper:{folder},redistribute"
        )
    settings = {"held_out_episodes": 5, "expert_filter": 0.8}
    return [source for name in there for source in domain_in(f"{folder}/{name}", WEIGHTS[name], **settings)]
