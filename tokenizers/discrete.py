"""Discrete values <-> ids [0, 1024), which they share with the first text pieces (Gato section 2.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec


def encode(values: Any, leaf: LeafSpec, where: str = "discrete value") -> np.ndarray:
    """Ids of integer or boolean values of any shape, in that shape. int32.

    Raises:
      SpecError: values that are no integers, or lie outside ``0 .. leaf.values - 1``; the message begins with `where`.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise SpecError(f"{where}: dtype {array.dtype}, but discrete values are integers or booleans")
    limit = leaf.values or 0
    if array.size and (array.min() < 0 or array.max() >= limit):
        bad = np.argwhere((array < 0) | (array >= limit))[0]
        value, position = array[tuple(bad)], [int(i) for i in bad]
        raise SpecError(f"{where}: value {value} at {position} lies outside the declared 0..{limit - 1}")
    return array.astype(np.int32)


def decode(ids: Any) -> np.ndarray:
    """Values of ids, in their shape. int32."""
    return np.asarray(ids).astype(np.int32)
