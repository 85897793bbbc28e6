"""Whether values keep to the range that their leaf declares."""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

_SLACK = 1e-5  # of the width of the range: rounding to float32


def outside(values: Any, leaf: LeafSpec) -> np.ndarray | None:
    """Which of the values [T, *shape] lie outside the declared range, bool of the same shape.

    None where nothing is declared. NaN counts as inside: that is another mistake.
    """
    if leaf.modality != "continuous" or leaf.low is None:
        return None
    low, high = (np.broadcast_to(np.asarray(bound), leaf.size).reshape(leaf.shape) for bound in (leaf.low, leaf.high))
    slack = _SLACK * (high - low)
    array = np.asarray(values)
    return (array < low - slack) | (array > high + slack)


def check_ranges(episode: Episode, spec: EpisodeSpec, where: str) -> None:
    """Raises SourceError for a value outside its range; the episode matches the spec otherwise (`check_episode`)."""
    for group, leaves, values in (
        ("observations", spec.observations, episode.observations),
        ("actions", spec.actions, episode.actions),
    ):
        for path, leaf in leaves.items():
            bad = outside(values[path], leaf)
            if bad is not None and bad.any():
                step = int(np.argwhere(bad)[0][0])
                value = np.asarray(values[path])[bad].flat[0]
                raise SourceError(
                    f"{where}: {group}.{path}: step {step}: {value:g} outside the range {leaf.low}..{leaf.high}; "
                    "declare a wider range in a DatasetSpec (of npz and HDF5 also in spec.json), or skip such episodes "
                    "with --bad skip"
                )
