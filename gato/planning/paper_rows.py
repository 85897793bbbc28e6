"""How many targets and image patches a device's rows have to hold, for the paper's mixture of data.

The head runs on a static number of targets and the patch encoder on a static number of patches: as many as the fullest
group of rows needs (`gato.data_pipelines.loader.Loader.probe`). In a row of text nearly every token is a target, in one
of a game nearly every token is a patch. So the fewer rows a group has, the nearer both numbers come to the most that
any row holds.

The shares are ours, worked out from the tokens, episodes and observations that the paper gives (Reed et al. 2022,
table 1; docs/plan.md says how); where it gives none they are guesses. Equal patches, which a group holds once, are not
discounted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gato.data_pipelines.loader import PROBED_BATCHES

# Domain -> (weight of the mixture in per cent, share of its tokens that are targets, that are patches).
ROWS: dict[str, tuple[float, float, float]] = {
    "dm_lab": (9.35, 0.16, 0.80),
    "atari": (19.5, 1 / 22, 20 / 22),
    "sokoban": (1.33, 1 / 27, 25 / 27),
    "babyai": (9.06, 9 / 158, 0.0),
    "dm_control": (4.62, 0.14, 0.0),
    "dm_control_pixels": (7.07, 0.11, 0.88),
    "dm_control_random": (6.08, 0.14, 0.0),
    "meta_world": (8.96, 4 / 44, 0.0),
    "procgen": (5.34, 1 / 18, 16 / 18),
    "rgb_stacking": (2.66, 0.03, 0.82),
    "modular_rl": (8.23, 0.10, 0.0),
    "dm_manipulation_playground": (1.68, 0.05, 0.85),
    "playroom": (1.33, 0.20, 0.75),
    "massive_text": (6.7, 1.0, 0.0),
    "m3w": (4.0, 0.60, 0.40),
    "captions_and_questions": (4.02, 0.10, 0.90),
}


class Shares(NamedTuple):
    """Targets and image patches per token."""

    targets: float
    patches: float


def mean_shares() -> Shares:
    """Of the whole mixture: what there is to compute, in the mean."""
    weights, targets, patches = np.array(list(ROWS.values())).T
    return Shares(float(np.average(targets, weights=weights)), float(np.average(patches, weights=weights)))


def capacity_shares(group_rows: int, groups: int) -> Shares:
    """For which every group has to have room: of the fullest of a run's first batches.

    Rows are drawn independently, each of one domain. The same arguments always give the same shares.
    """
    table = np.array(list(ROWS.values()))
    weights = table[:, 0] / table[:, 0].sum()
    fullest = np.zeros(2)
    rng = np.random.default_rng(0)
    for _ in range(PROBED_BATCHES):
        drawn = rng.choice(len(table), size=(groups, group_rows), p=weights)
        fullest = np.maximum(fullest, table[drawn, 1:].mean(axis=1).max(axis=0))
    return Shares(float(fullest[0]), float(fullest[1]))
