"""Random numbers that are a pure function of a key: the same on every host, in any order of access.

Philox is counter-based; its raw 64-bit output is fixed for ever, which NumPy does not promise of its distributions, so
everything here is made from raw bits.
"""

from __future__ import annotations

import hashlib

import numpy as np


def bits(count: int, *key: object) -> np.ndarray:
    """uint64 [count] of uniform bits; `key` is any sequence of strings and integers."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, np.uint64)).random_raw(count)


def uniform(count: int, *key: object) -> np.ndarray:
    """float64 [count] in [0, 1)."""
    return (bits(count, *key) >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *key: object) -> np.ndarray:
    """int64 [count]: a uniformly random order of 0..count-1."""
    return np.argsort(bits(count, *key), kind="stable")
