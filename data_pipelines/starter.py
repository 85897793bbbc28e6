"""The starter mixture: real data of every modality, made on this machine in minutes without a download.

Episodes and CPU seconds were measured on two cores; see `docs/` for what a model learns from it.
"""

from __future__ import annotations

import dataclasses

from gato.data_pipelines.collect import CollectPlan
from gato.data_pipelines.environments import metaworld
from gato.data_pipelines.environments.registry import DOCUMENTS

# DM Control's experts reach their goal early and hold it, so short episodes from many starts teach more than long ones.
STARTER: tuple[CollectPlan, ...] = (
    CollectPlan("atari/breakout", episodes=160, seconds=85),
    *(CollectPlan(f"metaworld/{name}", episodes=80, seconds=5.5) for name in metaworld.STARTER),
    CollectPlan("babyai/PickupLoc", episodes=8000, seconds=32),
    CollectPlan("babyai/OpenDoor", episodes=1500, seconds=6),
    CollectPlan("babyai/GoToLocal", episodes=1500, seconds=6),
    CollectPlan("babyai/GoToRedBall", episodes=400, seconds=2),
    CollectPlan("sokoban/7x7-1box", episodes=8000, seconds=14),
    CollectPlan("dm_control/reacher-easy", episodes=250, max_steps=100, seconds=3),
    CollectPlan("dm_control/point_mass-easy", episodes=150, max_steps=150, seconds=3),
    CollectPlan("dm_control/pendulum-swingup", episodes=80, max_steps=300, seconds=3),
    CollectPlan("captions/rooms", episodes=3500, seconds=7),
    CollectPlan("questions/rooms", episodes=3000, seconds=5),
    CollectPlan("text/stdlib", episodes=10_000, seconds=5),  # fewer: all that there are
)

# A network that trains for hours learns the starter's demonstrations of continuous control by heart.
MORE = {"metaworld": 4, "dm_control": 4}


def longer_starter() -> tuple[CollectPlan, ...]:
    """The starter mixture for trainings of hours: the same sources, with `MORE` times the episodes."""
    plans = []
    for plan in STARTER:
        times = MORE.get(plan.name.partition("/")[0], 1)
        plans.append(dataclasses.replace(plan, episodes=times * plan.episodes, seconds=times * plan.seconds))
    return tuple(plans)


def starter_tasks() -> list[str]:
    """The control tasks of the mixture, the ones that an evaluation plays."""
    return [plan.name for plan in STARTER if plan.name not in DOCUMENTS]
