"""Return-conditioned imitation: a return-to-go token stands before each observation (after Decision Transformer, Chen
et al. 2021), only actions are learned, and while acting the target is decremented by the reward.

A return-to-go has no declared range (success counts 0..1, DM Control 0..1000, Atari far beyond), so the token holds
its signed logarithm `scaled_return`: one bin is about 2.7 % of the return for |R| >> 1 and 0.03 near 0, and it
saturates at 10^6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.recipes.recipe import Conditioning, Recipe, RecipeError
from gato.tokenizers.layout import Layout
from gato.tokenizers.spec import LeafSpec

LEAF = "return_to_go"
LARGEST_RETURN = 1e6
# The default target while acting: high, but one that several demonstrations reached, not a single outlier.
TARGET_QUANTILE = 0.9


def scaled_return(returns: np.ndarray | float) -> np.ndarray:
    """``sgn(R) log(1 + |R|) / log(1 + 10^6)``, clipped to [-1, 1]; any shape, float32."""
    returns = np.asarray(returns, np.float64)
    scaled = np.sign(returns) * np.log1p(np.abs(returns)) / np.log1p(LARGEST_RETURN)
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Undiscounted sum of the rewards from each step to the end: float [T] -> float64 [T]."""
    return np.cumsum(np.asarray(rewards, np.float64)[::-1])[::-1]


def _derive(episode: Episode) -> dict[str, np.ndarray]:
    return {LEAF: scaled_return(returns_to_go(episode.rewards))}


def _statistics(returns: np.ndarray) -> dict[str, float]:
    return {"target_return": float(np.quantile(np.asarray(returns, np.float64), TARGET_QUANTILE))}


class ReturnConditioning:
    """Keeps the return that is still to be collected in one acting episode."""

    def __init__(self, default_target: float | None) -> None:
        self._default_target = default_target
        self._to_go: float | None = None

    def start(self, target: float | None = None) -> dict[str, float]:
        target = self._default_target if target is None else target
        if target is None:
            raise RecipeError(
                "return_conditioned: this source has no target return in the checkpoint; give one: `targets` of "
                "Agent.reset, `target` of a client's open"
            )
        if not np.isfinite(target):
            raise RecipeError(f"return_conditioned: the target return must be finite, got {target}")
        self._to_go = float(target)
        return self._values()

    def update(self, reward: float) -> dict[str, float]:
        if self._to_go is None:
            raise RuntimeError("update() before start()")
        self._to_go -= float(reward)
        return self._values()

    def _values(self) -> dict[str, float]:
        return {LEAF: float(scaled_return(self._to_go))}  # type: ignore[arg-type]


def _conditioning(statistics: Mapping[str, Any]) -> Conditioning:
    return ReturnConditioning(statistics.get("target_return"))


RETURN_CONDITIONED = Recipe(
    name="return_conditioned",
    layout=Layout(
        timestep=(LEAF, "observation", "separator", "action"),
        weights={"action": 1.0},
        derived={LEAF: LeafSpec("continuous", low=-1.0, high=1.0, companded=False)},
    ),
    derive=_derive,
    statistics=_statistics,
    conditioning=_conditioning,
)
