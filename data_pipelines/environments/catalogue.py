"""What our suites offer, written down: task -> observations, actions, metric, step limit, an example instruction.

So `gato suites` answers at once and for suites that are not installed. `gato.data_pipelines.write_catalogue` writes
the file from the simulators; a slow test compares every line with them.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from gato.data_pipelines.environments.base import Task
from gato.data_pipelines.episode import LeafSpec

PATH = pathlib.Path(__file__).with_name("catalogue.json")


@functools.cache
def load_catalogue() -> dict[str, dict[str, dict[str, Any]]]:
    """Suite -> full task name -> what `describe` says."""
    return json.loads(PATH.read_text())


def task_names(suite: str) -> list[str]:
    """Full names; empty for a suite that is not in the catalogue."""
    return list(load_catalogue().get(suite, ()))


def describe(task: Task) -> dict[str, Any]:
    """Builds the task's environment and says in JSON values what it is.

    Returns:
      ``observations`` and ``actions`` (see `summary`), ``metric``, ``max_steps``, and ``instruction``: what the text
      leaves of one episode say, where there are any.
    """
    environment = task.make()
    spec = environment.spec
    about: dict[str, Any] = {
        "observations": summary(spec.observations),
        "actions": summary(spec.actions),
        "metric": task.metric,
        "max_steps": task.max_steps,
    }
    text = [path for path, leaf in spec.observations.items() if leaf.modality == "text"]
    if text:
        observation = environment.reset(0)
        about["instruction"] = "; ".join(observation[path] for path in text)
    environment.close()
    return about


def summary(leaves: Mapping[str, LeafSpec]) -> str:
    """Leaves in words: "hand 3, image 64x64x3 pixels, view 7x7 of 198, mission text, action 4 in [-1, 1]"."""
    return ", ".join(f"{path} {_leaf(leaf)}" for path, leaf in leaves.items())


def _leaf(leaf: LeafSpec) -> str:
    size = "x".join(map(str, leaf.shape)) or "1"
    if leaf.modality == "text":
        return "text"
    if leaf.modality == "image":
        return f"{size} pixels"
    if leaf.modality == "discrete":
        return f"{size} of {leaf.values}"
    if leaf.low is None or leaf.high is None:
        return size
    if isinstance(leaf.low, tuple) or isinstance(leaf.high, tuple):
        return f"{size} in ranges of their own"
    return f"{size} in [{leaf.low:g}, {leaf.high:g}]"
