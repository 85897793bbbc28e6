"""What environments return -> the arrays that the tokenizer takes, checked against the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import EpisodeSpec, flatten


def stack_observations(observations: Sequence[Mapping[str, Any] | None], spec: EpisodeSpec) -> dict[str, Any]:
    """Observations (flat or nested) of some environments -> leaf path -> array [n, *shape], or n strings.

    None: nothing was observed in this environment; n counts the others.

    Raises:
      SpecError: a leaf is missing, has another shape, or is no text where the spec says text. Names the environment and
        leaf.
    """
    flat = {
        i: dict(flatten(o)) if any(isinstance(v, Mapping) for v in o.values()) else o
        for i, o in enumerate(observations)
        if o is not None
    }
    stacked: dict[str, Any] = {}
    for path, leaf in spec.observations.items():
        try:
            values = [observation[path] for observation in flat.values()]
        except KeyError:
            raise SpecError(_missing(path, flat)) from None
        if leaf.modality == "text":
            for i, value in zip(flat, values, strict=True):
                if not isinstance(value, str):
                    raise SpecError(
                        f"observation {path!r} of environment {i}: {type(value).__name__}, the spec says text"
                    )
            stacked[path] = values
            continue
        arrays = [np.asarray(value) for value in values]
        for i, array in zip(flat, arrays, strict=True):
            if array.shape != leaf.shape:
                raise SpecError(
                    f"observation {path!r} of environment {i}: shape {array.shape}, but the spec says {leaf.shape}; "
                    "act with the environment the spec was made for, or reset(spec=...) with this one's own"
                )
        stacked[path] = np.stack(arrays)
    return stacked


def _missing(path: str, observations: Mapping[int, Mapping[str, Any]]) -> str:
    index, found = next((i, o) for i, o in observations.items() if path not in o)
    return f"observation of environment {index}: leaf {path!r} is missing; it has {', '.join(sorted(found)) or 'none'}"


def split_actions(actions: Mapping[str, np.ndarray], batch: int) -> list[dict[str, np.ndarray]]:
    """Leaf path -> array [B, *shape] to one dictionary for each environment."""
    return [{path: values[i] for path, values in actions.items()} for i in range(batch)]
