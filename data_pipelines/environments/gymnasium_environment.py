"""Any single-agent environment of Gymnasium as an `Environment`: its spaces become leaves.

``Dict`` spaces become nested leaves, a bare space the leaf "observation" or "action"; uint8 boxes of [height, width, 1
or 3] are images, other boxes continuous, ``Discrete`` is discrete, counted from 0 wherever the space starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, bound, import_package
from gato.data_pipelines.environments.drawing import SceneDrawer
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, flatten, unflatten

_SUCCESS = ("success", "is_success")


class GymnasiumEnvironment:
    """One registered environment, with the step limit of its registration.

    Args:
      identifier: Gymnasium's, e.g. "CartPole-v1".
      mujoco: whether it simulates with MuJoCo: `frame` then draws the model, without OpenGL.

    Attributes:
      simulator: Gymnasium's own environment, which experts read.
    """

    def __init__(self, identifier: str, mujoco: bool = False) -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a window
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        gymnasium = import_package("gymnasium", "gymnasium")
        options = {} if mujoco else {"render_mode": "rgb_array"}
        self.simulator = gymnasium.make(identifier, disable_env_checker=True, **options)
        observation, action = self.simulator.observation_space, self.simulator.action_space
        self.spec = EpisodeSpec.of(_spec(observation, "observation"), _spec(action, "action", bounded=True))
        self._bare_observation, self._bare_action = not _is_dict(observation), not _is_dict(action)
        self._observations = _leaf_spaces(observation, "observation")
        self._actions = _leaf_spaces(action, "action")
        self._mujoco = mujoco
        self._drawer: SceneDrawer | None = None

    def reset(self, seed: int) -> Observation:
        self._drawer = None
        observation, _ = self.simulator.reset(seed=seed)
        return self._leaves(observation)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        command = {path: _command(action[path], space) for path, space in self._actions.items()}
        observation, reward, terminated, truncated, info = self.simulator.step(
            command["action"] if self._bare_action else unflatten(command)
        )
        reported = [bool(info[key]) for key in _SUCCESS if key in info]
        outcome = {"success": any(reported)} if reported else {}
        return self._leaves(observation), float(reward), bool(terminated), bool(truncated), outcome

    def frame(self) -> np.ndarray:
        if not self._mujoco:
            return self.simulator.render()
        inner = self.simulator.unwrapped
        for name in ("point_env", "ant_env", "robot_env"):  # mazes and the kitchen hold the simulation inside
            inner = getattr(inner, name, inner)
        if self._drawer is None:
            self._drawer = SceneDrawer(inner.model)
        return self._drawer.draw(inner.data)

    def close(self) -> None:
        self.simulator.close()

    def _leaves(self, observation: Any) -> Observation:
        values = {"observation": observation} if self._bare_observation else dict(flatten(observation))
        return {
            path: _value(values[path], leaf, self._observations[path]) for path, leaf in self.spec.observations.items()
        }


def _is_dict(space: Any) -> bool:
    return isinstance(space, import_package("gymnasium", "gymnasium").spaces.Dict)


def _named(space: Any, name: str, leaf: Callable[[Any], Any]) -> dict[str, Any]:
    """The space as a (nested) dictionary with ``leaf(inner)`` for each inner space."""
    if not _is_dict(space):
        return {name: leaf(space)}
    return {key: _named(inner, key, leaf) if _is_dict(inner) else leaf(inner) for key, inner in space.items()}


def _leaf_spaces(space: Any, name: str) -> dict[str, Any]:
    """Leaf path -> the space that is in it."""
    return dict(flatten(_named(space, name, lambda inner: inner)))


def _spec(space: Any, name: str, bounded: bool = False) -> dict[str, Any]:
    return _named(space, name, lambda inner: _leaf(inner, name, bounded))


def _leaf(space: Any, name: str, bounded: bool) -> LeafSpec:
    spaces = import_package("gymnasium", "gymnasium").spaces
    if isinstance(space, spaces.Discrete):
        return LeafSpec("discrete", values=int(space.n))
    if not isinstance(space, spaces.Box):
        raise SpecError(f"{name}: a space {type(space).__name__} has no leaf; Box, Discrete and Dict have")
    if space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] in (1, 3):
        return LeafSpec("image", space.shape)
    if not bounded:
        return LeafSpec("continuous", space.shape)
    low, high = bound(space.low), bound(space.high)
    return LeafSpec("continuous", space.shape, low=low, high=high)


def _value(value: Any, leaf: LeafSpec, space: Any) -> np.ndarray:
    if leaf.modality == "discrete":
        return np.asarray(np.asarray(value) - space.start, np.int32)
    return np.asarray(value, {"continuous": np.float32, "image": np.uint8}[leaf.modality])


def _command(value: np.ndarray, space: Any) -> Any:
    if hasattr(space, "n"):
        return int(value) + int(space.start)
    return np.clip(np.asarray(value, space.dtype), space.low, space.high)
