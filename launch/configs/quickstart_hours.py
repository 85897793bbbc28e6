"""The quickstart's experiment with hours to train: other shares of the tokens, for continuous control above all.

Command   gato quickstart --budget=2h     (any budget from an hour on; it also collects more demonstrations)
          gato train --config=quickstart_hours:RUN --out OTHER     (this experiment alone, on the data of that RUN)
Hardware  two CPU cores
Time      two hours in all; `gato quickstart` measures a step and takes as many as fit
Result    docs/results/quickstart_two_hours.md
"""

from __future__ import annotations

from ml_collections import ConfigDict

from gato.launch.configs import quickstart

# What is learned in minutes (missions, games, captions) stays learned with less; numbers need many more tokens.
WEIGHTS = {
    "metaworld": 0.21,
    "babyai/PickupLoc": 0.20,
    "babyai/OpenDoor": 0.03,
    "babyai/GoToLocal": 0.03,
    "babyai/GoToRedBall": 0.02,
    "dm_control/reacher-easy": 0.13,
    "dm_control/point_mass-easy": 0.02,
    "dm_control/pendulum-swingup": 0.07,
    "sokoban": 0.17,
    "atari": 0.05,
    "captions": 0.04,
    "questions": 0.02,
    "text": 0.01,
}


def get_config(run: str = "runs/two_hours") -> ConfigDict:
    """`run`: directory of the quickstart, which holds ``data/`` and ``tokenizer.model``."""
    config = quickstart.get_config(run)
    config.sources = quickstart.sources(run, WEIGHTS)
    config.steps = 20_000
    return config
