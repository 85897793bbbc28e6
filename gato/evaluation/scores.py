"""Scores: what the episodes of a task say, on a scale from random (0) to expert (100).

Normalised score = 100 * (S - S_random) / (S_expert - S_random), as in Gato (section 4.1); the score of a suite is
the mean over its tasks. A task whose expert is not better than random has no such scale: its normalised score is
undefined (null, with the reason) and it counts nowhere, never as solved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, resamples: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` [N]; the same seed gives the same interval."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("bootstrap_interval needs at least one value")
    choice = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(array[choice].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def normalise(score: float, random: float, expert: float) -> tuple[float | None, str | None]:
    """Returns (normalised score, None), or (None, why it is undefined)."""
    if not (math.isfinite(random) and math.isfinite(expert)):
        return None, "the random or the expert score of this task was not measured"
    if expert <= random:
        return None, f"the expert ({expert:g}) is not better than random ({random:g})"
    return 100 * (score - random) / (expert - random), None


def task_entry(
    values: Sequence[float] | np.ndarray,
    random: float,
    expert: float,
    *,
    metric: str,
    specialist: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The entry of one task in ``summary.json``.

    Args:
      values: [N] one score an episode: the return, or 1.0 / 0.0 for success.
      random, expert: scores under the same protocol; NaN where nobody measured.
      metric: "success" or "return".
      specialist: [M] scores of the specialist's episodes, where one was trained.

    Returns:
      ``score`` and its 95 % interval ``low``, ``high`` (in the task's units), ``normalised`` with ``normalised_low``
      and ``normalised_high`` (null where undefined, then ``undefined`` holds the reason), ``random``, ``expert``,
      ``metric``, ``episodes`` and, where given, ``specialist`` and ``specialist_normalised``.
    """
    score = float(np.mean(values))
    low, high = bootstrap_interval(values, seed=seed)
    normalised, reason = normalise(score, random, expert)
    entry: dict[str, Any] = {
        "score": score,
        "low": low,
        "high": high,
        "random": _finite(random),
        "expert": _finite(expert),
        "normalised": normalised,
        "normalised_low": normalise(low, random, expert)[0],
        "normalised_high": normalise(high, random, expert)[0],
        "episodes": len(values),
        "metric": metric,
    }
    if reason is not None:
        entry["undefined"] = reason
    if specialist is not None:
        entry["specialist"] = float(np.mean(specialist))
        entry["specialist_normalised"] = normalise(entry["specialist"], random, expert)[0]
    return entry


def summarise(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"tasks", "suites", "overall"}``: means of the defined normalised scores; null where there is none."""
    suites: dict[str, list[float]] = {}
    for name, entry in tasks.items():
        scores = suites.setdefault(name.partition("/")[0], [])
        if entry["normalised"] is not None:
            scores.append(entry["normalised"])
    return {
        "tasks": {name: dict(entry) for name, entry in tasks.items()},
        "suites": {suite: _mean(scores) for suite, scores in suites.items()},
        "overall": _mean([score for scores in suites.values() for score in scores]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
