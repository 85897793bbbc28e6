"""``gato collect``: demonstrations of chosen tasks, or the starter mixture."""

from __future__ import annotations

import argparse

from gato.data_pipelines.collect import CollectPlan, collect
from gato.data_pipelines.starter import STARTER


def run(arguments: argparse.Namespace) -> None:
    """Collects into ``--out`` and prints the folder of every store."""
    if arguments.tasks:
        plans = tuple(CollectPlan(task, arguments.episodes) for task in arguments.tasks)
    else:
        plans = STARTER
    for folder in collect(plans, arguments.out, seed=arguments.seed, processes=arguments.processes).values():
        print(folder)
