"""What published data sets do not say about their integers: how many values they have.

RL Unplugged's Atari has the full action set of ALE (18), its DeepMind Lab the 15 actions of R2D2.
"""

from __future__ import annotations

from gato.tokenizers.spec import LeafSpec

ATARI = {"actions.action": LeafSpec("discrete", values=18)}
DMLAB = {name: LeafSpec("discrete", values=15) for name in ("actions.action", "observations.last_action")}
_PREFIXES = {"rlu_atari": ATARI, "rlu_dmlab": DMLAB}


def known_leaves(name: str) -> dict[str, LeafSpec]:
    """ "observations.PATH" or "actions.PATH" -> leaf, for a TFDS data set of this name; {} for most."""
    for prefix, leaves in _PREFIXES.items():
        if name.startswith(prefix):
            return dict(leaves)
    return {}
