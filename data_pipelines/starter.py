"""The starter mixture: real data of every modality, made on this machine in minutes without a download.

Episodes and CPU seconds were measured on two cores; see `docs/` for what a model learns from it.
"""

from __future__ import annotations

from gato.data_pipelines.collect import CollectPlan
from gato.data_pipelines.environments import metaworld
from gato.data_pipelines.environments.registry import DOCUMENTS

# The planner's episodes take seconds each, so they come first: short ones then fill both processes to the end.
STARTER: tuple[CollectPlan, ...] = (
    CollectPlan("dm_control/ball_in_cup-catch", episodes=10, seconds=65),
    *(CollectPlan(f"metaworld/{name}", episodes=36, seconds=2.5) for name in metaworld.STARTER),
    CollectPlan("atari/breakout", episodes=36, seconds=25),
    CollectPlan("sokoban/7x7-1box", episodes=4000, seconds=10),
    CollectPlan("babyai/PickupLoc", episodes=1000, seconds=4),
    CollectPlan("babyai/OpenDoor", episodes=500, seconds=2),
    CollectPlan("babyai/GoToLocal", episodes=1000, seconds=4),
    CollectPlan("babyai/GoToRedBall", episodes=400, seconds=2),
    CollectPlan("dm_control/reacher-easy", episodes=21, seconds=2.5),
    CollectPlan("dm_control/point_mass-easy", episodes=21, seconds=2.5),
    CollectPlan("captions/rooms", episodes=3500, seconds=7),
    CollectPlan("questions/rooms", episodes=3000, seconds=5),
    CollectPlan("text/stdlib", episodes=10_000, seconds=5),  # fewer: all that there are
)


def starter_tasks() -> list[str]:
    """The control tasks of the mixture, the ones that an evaluation plays."""
    return [plan.name for plan in STARTER if plan.name not in DOCUMENTS]
