"""Measures the random and expert scores that normalise an evaluation: the same protocol on other seeds.

    python -m gato.data_pipelines.measure_references [TASK ...] [--episodes 50]

Without names: the tasks of the starter mixture. Results are merged into ``environments/reference_scores.json``. A task
whose simulator gives up stays undefined: `lqr` of the Control Suite takes actions of any size, random ones too.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os

import numpy as np

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.environments.base import (
    EVALUATION_SEED,
    Environment,
    ExpertError,
    NoExpert,
    Observation,
    Policy,
    Task,
)
from gato.data_pipelines.environments.references import PATH, load_references
from gato.data_pipelines.environments.registry import get_task, versions
from gato.data_pipelines.rollout import random_policy
from gato.data_pipelines.starter import starter_tasks
from gato.tokenizers.errors import run_program

# Beyond the seeds of the evaluations with --seed 0 to 9.
FIRST_SEED = EVALUATION_SEED + 100_000


def measure(task: Task, episodes: int) -> dict[str, object]:
    """Mean score of uniformly random actions, and of the expert if there is one, over ``episodes`` without noise."""
    environment = task.make()
    agents = ("random",) if isinstance(task.expert, NoExpert) else ("random", "expert")
    scores: dict[str, list[float]] = {agent: [] for agent in agents}
    for index in range(episodes):
        rng = np.random.default_rng([FIRST_SEED, index])
        for agent, values in scores.items():
            observation = environment.reset(FIRST_SEED + index)
            policy = random_policy(environment.spec, rng) if agent == "random" else task.expert(environment, rng)
            values.append(_score(task, environment, policy, observation))
    environment.close()
    record: dict[str, object] = {agent: round(float(np.mean(values)), 4) for agent, values in scores.items()}
    record |= {f"{agent}_standard_error": _standard_error(values) for agent, values in scores.items()}
    about = {"episodes": episodes, "metric": task.metric, "max_steps": task.max_steps}
    return record | about | {"versions": versions(task.name) | {"numpy": np.__version__}}


def _score(task: Task, environment: Environment, policy: Policy, observation: Observation) -> float:
    """One episode's score, from which nothing is kept; an expert that gives up has failed."""
    score, done = 0.0, False
    while not done:
        try:
            action = policy(observation)
        except ExpertError:
            return 0.0
        observation, reward, terminated, truncated, info = environment.step(action)
        done = terminated or truncated
        if task.metric == "return":
            score += reward
        elif info.get("success"):
            return 1.0
    return score


def _standard_error(values: list[float]) -> float:
    return round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 4)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        epilog="examples:\n"
        "  python -m gato.data_pipelines.measure_references metaworld/reach-v3 --episodes 20\n"
        "  python -m gato.data_pipelines.measure_references",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help='e.g. "metaworld/reach-v3"; default: the starter mixture'
    )
    parser.add_argument("--episodes", type=int, default=50, help="for each of random and expert (default 50)")
    options = parser.parse_args(arguments)
    if options.episodes < 2:
        parser.error(f"--episodes must be at least 2, got {options.episodes}")
    for name in options.tasks or starter_tasks():
        task = get_task(name)
        try:
            record = measure(task, options.episodes)
        except Exception as error:  # the simulator's own: random actions may be more than it can bear
            print(f"{name}: not measured: {' '.join(f'{type(error).__name__}: {error}'.split())}", flush=True)
            continue
        print(f"{name}: random {record['random']}, expert {record.get('expert', 'none')}", flush=True)
        _merge(name, record)


def _merge(name: str, record: dict[str, object]) -> None:
    """Writes one task's record; the others stay. Read anew under a lock: measurements may run side by side."""
    folder = os.open(PATH.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        load_references.cache_clear()
        tasks = {**load_references()["tasks"], name: record}
        about = {
            "made_with": "python -m gato.data_pipelines.measure_references",
            "protocol": "no noise, evaluation seeds; share of episodes with success at any step, or mean return",
            "tasks": {task: tasks[task] for task in sorted(tasks)},
        }
        replace_file(PATH, json.dumps(about, indent=1) + "\n")
    finally:
        os.close(folder)  # and with it the lock


if __name__ == "__main__":
    run_program(main)
