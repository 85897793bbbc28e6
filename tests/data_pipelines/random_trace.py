"""What a simulator shows in a few random steps: two such traces tell whether a seed fixes an episode."""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Environment
from gato.data_pipelines.episode import check_step
from gato.data_pipelines.rollout import random_policy


def random_trace(environment: Environment, seed: int, steps: int) -> list[Any]:
    """The first picture, observations, each checked against the spec, and rewards."""
    policy = random_policy(environment.spec, np.random.default_rng(seed))
    observation = environment.reset(seed)
    trace: list[Any] = [environment.frame()]
    for step in range(steps):
        check_step(observation, environment.spec.observations, f"step {step}")
        trace += [np.asarray(observation[path]) for path in environment.spec.observations]
        observation, reward, terminated, truncated, _ = environment.step(policy(observation))
        trace.append(np.asarray(reward))
        if terminated or truncated:
            break
    return trace


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))
