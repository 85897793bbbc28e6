"""Episode: what every source yields and every expert writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
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
    mistake = next(mistakes(episode, spec), None)
    if mistake is not None:
        raise SpecError(f"{where}: {mistake}")


def mistakes(episode: Episode, spec: EpisodeSpec) -> Iterator[str]:
    """What does not match the spec, with field and step: the first of each leaf, the first of the rewards."""
    steps = len(episode)
    if steps == 0:
        yield "the episode has no timestep"
        return
    if not np.isfinite(episode.rewards).all():
        yield f"rewards: NaN or infinity at step {int(np.argmin(np.isfinite(episode.rewards)))}"
    for group, leaves, arrays in (
        ("observations", spec.observations, episode.observations),
        ("actions", spec.actions, episode.actions),
    ):
        if set(leaves) != set(arrays):
            missing, extra = sorted(set(leaves) - set(arrays)), sorted(set(arrays) - set(leaves))
            words = [
                f"{', '.join(names)} {what}"
                for names, what in ((missing, "missing"), (extra, "not in the spec"))
                if names
            ]
            yield f"{group}: {'; '.join(words)}"
        for path, leaf in leaves.items():
            mistake = _mistake(arrays[path], leaf, steps) if path in arrays else ""
            if mistake:
                yield f"{group}.{path}: {mistake}"


def _mistake(values: Any, leaf: LeafSpec, steps: int) -> str:
    """The first thing that is wrong with the values of a leaf; "" if nothing is."""
    if len(values) != steps:
        return f"{len(values)} steps, but the episode has {steps}"
    if leaf.modality == "text":
        for step, value in enumerate(values):
            if not isinstance(value, str):
                return f"step {step}: {type(value).__name__} instead of a string"
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return f"step {step}: text that is not UTF-8 ({error.reason}); clean it"
        return ""
    if leaf.modality == "image" and isinstance(values[0], bytes):
        for step, file in enumerate(values):
            try:
                jpeg.decode(file, leaf.shape)
            except ValueError as error:
                return f"step {step}: {error}"
        return ""
    array = np.asarray(values)
    if array.shape[1:] != leaf.shape:
        return f"shape {array.shape[1:]} a step, the spec says {leaf.shape}"
    if leaf.modality == "image":
        return "" if array.dtype == np.uint8 else f"dtype {array.dtype}, images are uint8"
    if leaf.modality == "discrete":
        if array.dtype.kind not in "iub":
            return f"dtype {array.dtype}, discrete values are integers"
        bad = (array < 0) | (array >= leaf.values)
        if bad.any():
            return f"step {int(np.argwhere(bad)[0][0])}: value {array[bad][0]} outside 0..{(leaf.values or 0) - 1}"
        return ""
    bad = ~np.isfinite(array)
    return f"step {int(np.argwhere(bad)[0][0])}: NaN or infinity" if bad.any() else ""
