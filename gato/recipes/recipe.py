"""Recipe: layout + weight + conditioning + decoding, the only things in which one system of the field differs from
another.

A recipe is data and small pure functions over episodes. The tokenizer reads its `Layout`, the loader calls its
`derive` and `episode_weight`, the agent asks its conditioning for the derived values of the next timestep. Model,
trainer and loader never ask which recipe they run.

A package of the user's own adds a recipe with an entry point in the group ``gato.recipes`` whose object is a `Recipe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.tokenizers.errors import GatoError, suggest
from gato.tokenizers.layout import Layout

ENTRY_POINTS = "gato.recipes"
_OURS = {"gato": "gato.recipes.gato:GATO", "return_conditioned": "gato.recipes.return_conditioned:RETURN_CONDITIONED"}


class RecipeError(GatoError):
    """A recipe that does not exist, or that was given what it cannot use."""


class Conditioning(Protocol):
    """Supplies the derived values of one acting episode, timestep by timestep."""

    def start(self, target: float | None = None) -> dict[str, float]:
        """Values (one per leaf of `Layout.derived`) for the first timestep. `target` is in units of the return;
        ``None`` takes the recipe's default for this source. Recipes without a target ignore it."""

    def update(self, reward: float) -> dict[str, float]:
        """Values for the next timestep, after `reward` followed the last action."""


class Unconditioned:
    """The conditioning of a recipe without derived leaves."""

    def start(self, target: float | None = None) -> dict[str, float]:
        return {}

    def update(self, reward: float) -> dict[str, float]:
        return {}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How tokens are sampled: temperatures; 0 is greedy. The paper gives 0.9 for captions; for control, none."""

    control_temperature: float = 1.0
    text_temperature: float = 0.9

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise RecipeError(f"decoding.{field.name} must be >= 0, got {getattr(self, field.name)}")


def _no_statistics(returns: np.ndarray) -> dict[str, float]:
    return {}


def _unconditioned(statistics: Mapping[str, Any]) -> Conditioning:
    return Unconditioned()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One system over the shared tokens, model and trainer.

    Attributes:
      name: as `get_recipe` and the checkpoint know it.
      layout: tokens of a timestep, their order and their loss weights.
      derive: episode of T timesteps -> {leaf of `layout.derived`: float [T]}. None: there is nothing to derive.
      episode_weight: episode -> factor on the loss weights of all its tokens; 0 leaves the episode out of the loss.
        None: 1. With one of the two, the loader reads the whole of an episode for any window of it, else the window.
      statistics: returns [N] of a source's training episodes -> JSON values that travel in the checkpoint's meta.
      conditioning: those JSON values -> a fresh `Conditioning` for one acting episode.
      decoding: sampling temperatures.
    """

    name: str
    layout: Layout
    derive: Callable[[Episode], dict[str, np.ndarray]] | None = None
    episode_weight: Callable[[Episode], float] | None = None
    statistics: Callable[[np.ndarray], dict[str, float]] = _no_statistics
    conditioning: Callable[[Mapping[str, Any]], Conditioning] = _unconditioned
    decoding: Decoding = Decoding()

    def derived(self, episode: Episode) -> dict[str, np.ndarray]:
        """What `derive` makes of the episode."""
        return {} if self.derive is None else self.derive(episode)


def list_recipes() -> list[str]:
    """Names of our recipes and of those that installed packages add."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `RecipeError` with a suggestion for an unknown one."""
    if name in _OURS:
        module, attribute = _OURS[name].split(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            recipe = point.load()
            if not isinstance(recipe, Recipe):
                raise RecipeError(
                    f"entry point {point.value!r} of recipe {name!r} is a {type(recipe).__name__}, no Recipe"
                )
            return recipe
    raise RecipeError(f"unknown recipe {name!r}; {suggest(name, list_recipes())}")
