"""Meta-World's scripted policies: they read the current 39-vector and move the hand through fixed phases."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Policy, import_package


def scripted_policy(name: str, environment: Any, rng: np.random.Generator) -> Policy:
    """The package's policy of task ``name`` for a `MetaWorldEnvironment`. Stateless, so noise does not confuse it."""
    del rng
    policy = import_package("metaworld.policies", "metaworld").ENV_POLICY_MAP[name]()

    def act(observation: Observation) -> Action:
        del observation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": the clipping below is meant
            command = policy.get_action(environment.state)
        return {"action": np.clip(command, -1, 1).astype(np.float32)}

    return act
