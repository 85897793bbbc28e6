"""Scores: what the episodes of a task say, on a scale from random (0) to expert (100).

Normalised score = 100 * (S - S_random) / (S_expert - S_random), as in Gato (section 4.1); the score of a domain (here:
a suite) is the mean over its tasks. A task whose expert is not better than random has no such scale: its normalised
score is undefined (null, with the reason) and it counts nowhere, never as solved; nor does one of which no episode
finished.

Beside the mean stands the interquartile mean (IQM) of Agarwal et al. 2021 (rliable): the mean of the middle half of the
tasks, which a few tasks with huge scores cannot carry. Intervals of both are of the stratified bootstrap: episodes are
drawn again within each task, so what varies is luck in the episodes; the tasks, and the one network, are given. The
interval of one success rate is Wilson's: episodes that all end alike, drawn again, would leave none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np

Scores = TypeVar("Scores", float, np.ndarray)

CONFIDENCE, RESAMPLES = 0.95, 4000
_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # 1.96
HALF = 50.0  # of the expert: the paper counts the tasks above


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` [N]; the same seed gives the same interval."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("bootstrap_interval needs at least one value")
    return _interval(_resampled_means(array, np.random.default_rng(seed), resamples), confidence)


def success_interval(successes: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate, within [0, 1]; ``successes`` [N]: 1 or 0 for each episode."""
    count = len(successes)
    if count == 0:
        raise ValueError("success_interval needs at least one value")
    rate, spread = float(np.mean(successes)), _QUANTILE**2 / count
    middle = (rate + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def undefined(random: float, expert: float) -> str | None:
    """Why a task with these scores has no normalised score; None where it has."""
    if not (math.isfinite(random) and math.isfinite(expert)):
        return "the random or the expert score of this task was not measured"
    return f"the expert ({expert:g}) is not better than random ({random:g})" if expert <= random else None


def normalise(score: Scores, random: float, expert: float) -> Scores:
    """A score, or an array of them, on the task's scale: 0 random, 100 expert; NaN where that is `undefined`."""
    return 100 * (score - random) / (math.nan if undefined(random, expert) else expert - random)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis [..., N]: the lowest and the highest floor(N / 4) are left out."""
    cut = values.shape[-1] // 4
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)


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
      values: [N] one score for each episode that finished: the return, or 1.0 / 0.0 for success.
      random, expert: scores under the same protocol; NaN where nobody measured.
      metric: "success" or "return".
      specialist: [M] scores of the specialist's episodes, where one was trained.

    Returns:
      ``score`` and its 95 % interval ``low``, ``high`` (in the task's units; null where no episode finished),
      ``normalised`` with ``normalised_low`` and ``normalised_high`` (null where undefined, then ``undefined`` holds the
      reason), ``random``, ``expert``, ``metric``, ``episodes`` and, where given, ``specialist`` and
      ``specialist_normalised``.
    """
    score, low, high = math.nan, math.nan, math.nan
    reason: str | None = "no episode finished"
    if len(values):
        score, reason = float(np.mean(values)), undefined(random, expert)
        low, high = success_interval(values) if metric == "success" else bootstrap_interval(values, seed=seed)
    entry: dict[str, Any] = {
        "score": _finite(score),
        "low": _finite(low),
        "high": _finite(high),
        "random": _finite(random),
        "expert": _finite(expert),
        "normalised": _finite(normalise(score, random, expert)),
        "normalised_low": _finite(normalise(low, random, expert)),
        "normalised_high": _finite(normalise(high, random, expert)),
        "episodes": len(values),
        "metric": metric,
    }
    if reason is not None:
        entry["undefined"] = reason
    if specialist is not None:
        entry["specialist"] = float(np.mean(specialist))
        entry["specialist_normalised"] = _finite(normalise(entry["specialist"], random, expert))
    return entry


def summarise(
    tasks: Mapping[str, Mapping[str, Any]], episodes: Mapping[str, np.ndarray] | None = None, seed: int = 0
) -> dict[str, Any]:
    """``{"tasks", "suites", "overall", "domains", "all"}``.

    Args:
      tasks: `task_entry` of every task.
      episodes: task -> [N] scores of its episodes in the task's units; without them there are no intervals.

    Returns:
      ``suites`` and ``overall`` hold means of the defined normalised scores, null where there is none; ``domains`` (by
      suite) and ``all`` say more, see `aggregate`.
    """
    suites: dict[str, list[str]] = {}
    for name in tasks:
        suites.setdefault(name.partition("/")[0], []).append(name)
    domains = {
        suite: aggregate({name: tasks[name] for name in names}, episodes, seed) for suite, names in suites.items()
    }
    every = aggregate(tasks, episodes, seed)
    return {
        "tasks": {name: dict(entry) for name, entry in tasks.items()},
        "suites": {suite: domain["mean"] for suite, domain in domains.items()},
        "overall": every["mean"],
        "domains": domains,
        "all": every,
    }


def aggregate(
    tasks: Mapping[str, Mapping[str, Any]], episodes: Mapping[str, np.ndarray] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Several tasks in a few figures.

    Returns:
      ``mean`` and ``iqm`` of the normalised scores with ``mean_low``, ``mean_high``, ``iqm_low``, ``iqm_high`` (95 %),
      all null where no task has a scale; ``tasks`` with a scale, how many of them are ``above_half`` of the expert, and
      how many are ``undefined``.
    """
    names = [name for name, entry in tasks.items() if entry["normalised"] is not None]
    counts = {
        "tasks": len(names),
        "above_half": sum(tasks[name]["normalised"] > HALF for name in names),
        "undefined": len(tasks) - len(names),
    }
    figures: dict[str, Any] = dict.fromkeys(("mean", "mean_low", "mean_high", "iqm", "iqm_low", "iqm_high"))
    if not names:
        return figures | counts
    scores = np.array([tasks[name]["normalised"] for name in names], np.float64)
    figures |= {"mean": float(scores.mean()), "iqm": float(interquartile_mean(scores))}
    if episodes is not None:
        rng = np.random.default_rng(seed)
        drawn = []  # of each task, its normalised score in every resample
        for name in names:
            means = _resampled_means(np.asarray(episodes[name], np.float64), rng, RESAMPLES)
            drawn.append(normalise(means, tasks[name]["random"], tasks[name]["expert"]))
        drawn_RT = np.stack(drawn, axis=-1)
        figures["mean_low"], figures["mean_high"] = _interval(drawn_RT.mean(axis=-1), CONFIDENCE)
        figures["iqm_low"], figures["iqm_high"] = _interval(interquartile_mean(drawn_RT), CONFIDENCE)
    return figures | counts


def _resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means of ``values`` [N] drawn again with replacement: [resamples]."""
    return values[rng.integers(0, values.size, (resamples, values.size))].mean(axis=1)


def _interval(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
