"""One episode of a policy in an environment, as an `Episode`; and demonstrations with DART noise.

DART (Laskey et al. 2017): the environment executes the expert's action with noise, the episode stores the expert's
clean answer. The expert then also shows how to come back from states that it would never reach by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import (
    COLLECTION_SEED,
    EVALUATION_SEED,
    Action,
    Environment,
    ExpertError,
    Observation,
    Policy,
    Task,
)
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec, check_step
from gato.tokenizers.errors import SpecError

# Attempts at one demonstration: experts fail in a few per cent of the episodes, more under strong noise.
ATTEMPTS = 20
# Coprime to the number of collection seeds: another seed or another attempt starts elsewhere, none repeats early.
_SEED_STRIDE, _ATTEMPT_STRIDE = 100_003, 500_009


def random_policy(spec: EpisodeSpec, rng: np.random.Generator) -> Policy:
    """Uniformly random legal actions. Raises `SpecError` for a continuous action without bounds."""

    def act(observation: Observation) -> Action:
        del observation
        return {path: _uniform(path, leaf, rng) for path, leaf in spec.actions.items()}

    return act


def perturb(action: Action, spec: EpisodeSpec, level: float, rng: np.random.Generator) -> Action:
    """The action with noise; see `Task.noise` for the unit of ``level``. Always legal."""
    if level == 0:
        return action
    noisy = {}
    for path, leaf in spec.actions.items():
        drawn = _uniform(path, leaf, rng)
        if leaf.modality == "discrete":
            noisy[path] = np.where(rng.random(leaf.shape) < level, drawn, action[path]).astype(np.int32)
        else:
            low, high = leaf.bounds(path)
            shift = level * (high - low) / 2 * rng.standard_normal(leaf.shape)
            noisy[path] = np.clip(action[path] + shift, low, high).astype(np.float32)
    return noisy


def rollout(
    environment: Environment,
    policy: Policy,
    observation: Observation,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    steps_after_success: int | None = None,
    max_steps: int | None = None,
) -> Episode:
    """Runs ``policy`` from ``observation`` (what ``reset`` returned) to the end of the episode.

    Args:
      noise: level of `perturb`; the stored actions stay the policy's own. Needs ``rng``.
      steps_after_success: steps to keep after the first with ``info["success"]``; ``None`` keeps all.
      max_steps: cuts the episode, which then counts as truncated; ``None`` for the environment's own limit.

    Returns:
      The episode; ``metadata["success"]`` is whether any step reported success (absent where the suite defines none).

    Raises:
      SpecError: an observation or an action does not match the environment's spec; names the step and the leaf.
    """
    spec = environment.spec
    observations: dict[str, list] = {path: [] for path in spec.observations}
    actions: dict[str, list] = {path: [] for path in spec.actions}
    rewards: list[float] = []
    terminated = truncated = False
    metadata: dict[str, Any] = {}
    left = steps_after_success
    while not (terminated or truncated):
        check_step(observation, spec.observations, f"step {len(rewards)}: observation")
        action = policy(observation)
        check_step(action, spec.actions, f"step {len(rewards)}: action")
        for path, values in observations.items():
            values.append(observation[path])
        for path, values in actions.items():
            values.append(action[path])
        executed = action if rng is None else perturb(action, spec, noise, rng)
        observation, reward, terminated, truncated, info = environment.step(executed)
        rewards.append(reward)
        if "success" in info:
            metadata["success"] = bool(info["success"]) or metadata.get("success", False)
        if metadata.get("success") and left is not None:
            truncated = truncated or (left == 0 and not terminated)
            left -= 1
        truncated = truncated or (len(rewards) == max_steps and not terminated)
    return Episode(
        {path: _stack(values, spec.observations[path]) for path, values in observations.items()},
        {path: _stack(values, spec.actions[path]) for path, values in actions.items()},
        np.array(rewards, np.float32),
        terminated,
        truncated,
        metadata,
    )


def demonstration(task: Task, environment: Environment, index: int, seed: int, max_steps: int | None = None) -> Episode:
    """Demonstration number ``index`` of a collection with ``seed``: a pure function of these and of the task.

    Where the metric is success, an episode in which the expert failed is dropped and tried again from another state.

    Raises:
      ExpertError: the expert failed `ATTEMPTS` times in a row.
      SpecError: the environment or the expert does not keep to the spec; names the task, the step and the leaf.
    """
    reason = "it did not succeed"
    noise = task.noise[index % len(task.noise)]
    for attempt in range(ATTEMPTS):
        start = COLLECTION_SEED + (_SEED_STRIDE * seed + index + _ATTEMPT_STRIDE * attempt) % (
            EVALUATION_SEED - COLLECTION_SEED
        )
        rng = np.random.default_rng([start, seed, index])
        observation = environment.reset(start)
        try:
            episode = rollout(
                environment,
                task.expert(environment, rng),
                observation,
                noise=noise,
                rng=rng,
                steps_after_success=task.steps_after_success,
                max_steps=max_steps,
            )
        except ExpertError as error:
            reason = str(error)
            continue
        except SpecError as error:
            raise SpecError(f"{task.name}: episode {index}: {error}") from error
        if task.metric == "success" and not episode.metadata.get("success"):
            continue
        about = {"episode_id": f"{index:06d}", "reset_seed": start, "noise": noise, "attempt": attempt}
        episode.metadata.update(about)
        return episode
    raise ExpertError(f"{task.name}: the expert failed {ATTEMPTS} times in a row at episode {index}: {reason}")


def _stack(values: list, leaf: LeafSpec) -> Any:
    return values if leaf.modality == "text" else np.stack([np.asarray(value) for value in values])


def _uniform(path: str, leaf: LeafSpec, rng: np.random.Generator) -> np.ndarray:
    if leaf.modality == "discrete":
        return np.asarray(rng.integers(leaf.values or 1, size=leaf.shape), np.int32)
    low, high = leaf.bounds(path)
    return rng.uniform(low, high, leaf.shape).astype(np.float32)
