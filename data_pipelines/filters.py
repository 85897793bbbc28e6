"""Which episodes of a source are trained on, and which are held out."""

from __future__ import annotations

import numpy as np

from gato.data_pipelines import draws


def expert_return(returns: np.ndarray) -> float:
    """The best mean return of W consecutive episodes, W = min(1000, N / 10) and at least 1 (Gato, data filtering).

    Args:
      returns: float [N], in the order of collection; N >= 1.
    """
    window = max(1, min(1000, len(returns) // 10))
    sums = np.cumsum(np.concatenate([[0.0], returns]))
    return float(np.max(sums[window:] - sums[:-window]) / window)


def keep_expert(returns: np.ndarray, groups: np.ndarray, fraction: float = 0.8) -> np.ndarray:
    """bool [N]: episodes whose return is at least `fraction` of the expert return of their own task and agent.

    Args:
      returns: float [N], in the order of collection.
      groups: int [N], which task and agent an episode belongs to: returns are comparable only among those.
    """
    kept = np.zeros(len(returns), bool)
    for group in np.unique(groups):
        members = groups == group
        kept[members] = returns[members] >= fraction * expert_return(returns[members])
    return kept


def hold_out(episodes: np.ndarray, count: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Splits `episodes` into (trained on, held out); `count` of them, drawn by seed and source name, are held out."""
    order = draws.permutation(len(episodes), "hold out", seed, name)
    return np.sort(episodes[order[: len(episodes) - count]]), np.sort(episodes[order[len(episodes) - count :]])
