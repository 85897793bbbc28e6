"""Episode: what every source yields and every expert writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.data_pipelines import jpeg
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

__all__ = ["Episode", "EpisodeSpec", "LeafSpec", "check_episode", "check_step"]


@dataclasses.dataclass
class Episode:
    """One episode of T timesteps, or one document (T = 1).

    Attributes:
      observations: leaf path ("a.b") -> array with leading axis T. Text leaves are lists of T strings; images uint8
        (on their way into a store also lists of T JPEG files).
      actions: leaf path -> array with leading axis T: ``actions[t]`` is what the expert answers to ``observations[t]``.
      rewards: float32 [T], ``rewards[t]`` follows ``actions[t]``.
      terminated, truncated: how the episode ended.
      metadata: JSON values: suite, task, agent, episode_id (unique in its source), success and whatever else is known.
    """

    observations: Mapping[str, Any]
    actions: Mapping[str, Any]
    rewards: np.ndarray
    terminated: bool = True
    truncated: bool = False
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)


def check_step(values: Mapping[str, Any], leaves: Mapping[str, LeafSpec], where: str) -> None:
    """Raises `SpecError` if one timestep lacks a leaf, or one has another shape or is no string where text is declared.

    What else can be wrong (ranges, NaN) shows in the whole episode as well: `check_episode`.
    """
    for path, leaf in leaves.items():
        if path not in values:
            found = ", ".join(sorted(map(str, values))) or "none"
            raise SpecError(f"{where}: leaf {path!r} is missing; it has {found}. Mend the environment or its spec")
        if leaf.modality == "text":
            if not isinstance(values[path], str):
                raise SpecError(f"{where}: leaf {path!r} is {type(values[path]).__name__}, the spec says text")
        elif np.shape(values[path]) != leaf.shape:
            raise SpecError(f"{where}: leaf {path!r} has shape {np.shape(values[path])}, the spec says {leaf.shape}")


def check_episode(episode: Episode, spec: EpisodeSpec, where: str) -> None:
    """Raises `SpecError` that names the place and the field if the episode does not match its spec."""
    steps = len(episode)
    if steps == 0:
        raise SpecError(f"{where}: the episode has no timestep")
    if not np.isfinite(episode.rewards).all():
        raise SpecError(f"{where}: rewards: NaN or infinity at step {int(np.argmin(np.isfinite(episode.rewards)))}")
    for group, leaves, arrays in (
        ("observations", spec.observations, episode.observations),
        ("actions", spec.actions, episode.actions),
    ):
        if set(leaves) != set(arrays):
            missing, extra = sorted(set(leaves) - set(arrays)), sorted(set(arrays) - set(leaves))
            raise SpecError(f"{where}: {group}: missing {missing or 'nothing'}, not in the spec {extra or 'nothing'}")
        for path, leaf in leaves.items():
            _check_leaf(arrays[path], leaf, steps, f"{where}: {group}.{path}")


def _check_leaf(values: Any, leaf: LeafSpec, steps: int, where: str) -> None:
    if len(values) != steps:
        raise SpecError(f"{where}: {len(values)} steps, but the episode has {steps}")
    if leaf.modality == "text":
        for step, value in enumerate(values):
            if not isinstance(value, str):
                raise SpecError(f"{where}: step {step}: {type(value).__name__} instead of a string")
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise SpecError(f"{where}: step {step}: text that is not UTF-8 ({error.reason}); clean it") from None
        return
    if leaf.modality == "image" and isinstance(values[0], bytes):
        for step, file in enumerate(values):
            try:
                jpeg.decode(file, leaf.shape)
            except ValueError as error:
                raise SpecError(f"{where}: step {step}: {error}") from None
        return
    array = np.asarray(values)
    if array.shape[1:] != leaf.shape:
        raise SpecError(f"{where}: shape {array.shape[1:]} a step, the spec says {leaf.shape}")
    if leaf.modality == "image" and array.dtype != np.uint8:
        raise SpecError(f"{where}: dtype {array.dtype}, images are uint8")
    if leaf.modality == "discrete":
        if array.dtype.kind not in "iub":
            raise SpecError(f"{where}: dtype {array.dtype}, discrete values are integers")
        bad = (array < 0) | (array >= leaf.values)
        if bad.any():
            step = int(np.argwhere(bad)[0][0])
            raise SpecError(f"{where}: step {step}: value {array[bad][0]} outside 0..{(leaf.values or 0) - 1}")
    if leaf.modality == "continuous":
        bad = ~np.isfinite(array)
        if bad.any():
            raise SpecError(f"{where}: step {int(np.argwhere(bad)[0][0])}: NaN or infinity")
