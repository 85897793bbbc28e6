"""Continuous values <-> 1,024 bins.

Source: Gato section 2.1. Observations go through the mu-law; actions, and observations whose declared range already
lies in [-1, 1], do not; then 1,024 uniform bins of [-1, 1]. A declared action range other than [-1, 1] is scaled to it
first (ours).

Encoding is exact, not only close: a value's bin is found by comparing it with the border itself, in the value's own
precision. The companded bin needs no logarithm. The leading bits of a float (sign, exponent, 6 bits of mantissa) name
an interval that is at most 1/64 wide relative to its lower end, and a companded bin is never narrower than 1/51 of its
lower end, so that such an interval holds at most one border: ``bin = table[interval] + (value >= border[interval])``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec

BINS = 1024
MU = 100.0
M = 256.0
_LOG = np.log(M * MU + 1.0)
_MANTISSA_BITS = 6


def mu_law(x: Any) -> np.ndarray:
    """``F(x) = sgn(x) log(|x| mu + 1) / log(M mu + 1)``: maps [-256, 256] to [-1, 1]. float64, any shape."""
    x = np.asarray(x, np.float64)
    return np.sign(x) * np.log1p(np.abs(x) * MU) / _LOG


def inverse_mu_law(y: Any) -> np.ndarray:
    """The inverse of `mu_law`. float64, any shape."""
    y = np.asarray(y, np.float64)
    return np.sign(y) * np.expm1(np.abs(y) * _LOG) / MU


def is_companded(leaf: LeafSpec, is_action: bool) -> bool:
    """Whether a continuous leaf goes through the mu-law: as it says itself, otherwise by Gato's rule."""
    if leaf.companded is not None:
        return leaf.companded
    return not is_action and not _in_unit_range(leaf)


def _in_unit_range(leaf: LeafSpec) -> bool:
    if leaf.low is None or leaf.high is None:
        return False
    return bool(np.min(leaf.low) >= -1 and np.max(leaf.high) <= 1)


def _range(leaf: LeafSpec, companded: bool, is_action: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds from which an uncompanded leaf is scaled to [-1, 1], of shape () or [size]; None if it is not scaled.

    An observation that lies in [-1, 1] already is binned as it is, like the paper's.
    """
    if companded or leaf.low is None or leaf.high is None or (not is_action and _in_unit_range(leaf)):
        return None
    low, high = np.asarray(leaf.low, np.float64), np.asarray(leaf.high, np.float64)
    if (low == -1).all() and (high == 1).all():
        return None
    return low, high


def check_leaf(leaf: LeafSpec, companded: bool, is_action: bool, where: str) -> None:
    """Raises `SpecError` if an uncompanded continuous leaf has no finite range, which an action needs to be binned."""
    if companded or (leaf.low is None and not is_action):
        return
    if leaf.low is None or leaf.high is None or not (np.isfinite(leaf.low).all() and np.isfinite(leaf.high).all()):
        raise SpecError(
            f"{where}: without the mu-law a finite range is needed, got low={leaf.low}, high={leaf.high}; "
            "declare low and high in its LeafSpec (or companded=True if it has none)"
        )


def encode(
    values: Any, leaf: LeafSpec, companded: bool, is_action: bool = False, where: str = "continuous value"
) -> np.ndarray:
    """Bins 0..1023 of values [..., *leaf.shape] of any real dtype, in their shape. int32.

    Finite values outside the representable range take the outermost bin.

    Raises:
      SpecError: a NaN or an infinity; the message begins with `where`.
    """
    x = _as_float(values, where)
    if x.size == 0:
        return np.zeros(x.shape, np.int32)
    smallest, largest = float(x.min()), float(x.max())  # NaN propagates through both
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        position = [int(i) for i in np.argwhere(~np.isfinite(x))[0]]
        raise SpecError(f"{where}: NaN or infinity at {position}; mend or drop the episode before it is tokenized")
    if companded:
        return _companded_bins(x)
    scale = _range(leaf, companded, is_action)
    if scale is None:
        # 512 c is exact in binary and so is its floor; (c + 1) / 2 would round c = -1e-9 up to the next bin in float32.
        bins = np.asarray((np.clip(x, -1, 1) if smallest < -1 or largest > 1 else x) * x.dtype.type(BINS // 2))
    else:
        low, high = _shaped(scale, leaf)
        bins = np.asarray((np.clip(x, low, high) - low) * (BINS / (high - low)) - BINS // 2)
    np.floor(bins, out=bins)
    np.clip(bins, -(BINS // 2), BINS // 2 - 1, out=bins)
    result = bins.astype(np.int32)
    result += BINS // 2
    return result


def decode(bins: Any, leaf: LeafSpec, companded: bool, is_action: bool = False) -> np.ndarray:
    """The centres of bins 0..1023, in the leaf's units: float64 of the shape of `bins`, which is [..., *leaf.shape].

    A declared range is kept: a companded bin whose centre lies beyond it decodes to its end.
    """
    table = _companded_centres() if companded else _plain_centres()
    values = np.asarray(table[np.asarray(bins)])
    scale = _range(leaf, companded, is_action)
    if scale is not None:
        low, high = _shaped(scale, leaf)
        return np.clip(low + (values + 1) * ((high - low) / 2), low, high)
    if leaf.low is not None and leaf.high is not None:
        low, high = _shaped((np.asarray(leaf.low, np.float64), np.asarray(leaf.high, np.float64)), leaf)
        return np.clip(values, low, high)
    return values


def _as_float(values: Any, where: str) -> np.ndarray:
    x = np.asarray(values)
    if x.dtype == np.float32 or x.dtype == np.float64:
        return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
    if x.dtype == np.float16:
        return x.astype(np.float32)
    if x.dtype.kind not in "fiub":
        raise SpecError(f"{where}: dtype {x.dtype} instead of real numbers")
    return x.astype(np.float64)


def _shaped(bounds: tuple[np.ndarray, np.ndarray], leaf: LeafSpec) -> tuple[np.ndarray, np.ndarray]:
    """Bounds given per element (row-major) in the leaf's own shape, so that they broadcast over leading axes."""
    low, high = (bound.reshape(leaf.shape) if bound.ndim else bound for bound in bounds)
    return low, high


def _companded_bins(x: np.ndarray) -> np.ndarray:
    first, border, bits, shift = _interval_tables(x.dtype)
    flat = x.reshape(-1)
    interval = (flat.view(bits) >> shift).astype(np.intp)
    bins = first[interval]
    bins += flat >= border[interval]
    return bins.reshape(x.shape)


@functools.cache
def _plain_centres() -> np.ndarray:
    return (2.0 * np.arange(BINS) + 1.0) / BINS - 1.0


@functools.cache
def _companded_centres() -> np.ndarray:
    return inverse_mu_law(_plain_centres())


@functools.cache
def companded_borders() -> np.ndarray:
    """float64 [1023]: the smallest value of each companded bin but bin 0."""
    return inverse_mu_law(2.0 * np.arange(1, BINS) / BINS - 1.0)


@functools.cache
def _interval_tables(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.dtype, Any]:
    """The intervals of a float type that share their leading bits, in the order of these bits.

    Returns:
      int32 [intervals]: the lowest bin in each; [intervals]: the border inside, rounded up to the type's next number
      (infinity if there is none); the unsigned type of the same width; the shift that leaves an interval's number.
    """
    width, mantissa = (32, 23) if dtype == np.float32 else (64, 52)
    bits = np.dtype(f"u{width // 8}")
    shift = mantissa - _MANTISSA_BITS
    lowest_bits = np.arange(1 << (width - shift), dtype=np.uint64) << np.uint64(shift)
    ends = [(lowest_bits | np.uint64(low)).astype(bits).view(dtype) for low in (0, (1 << shift) - 1)]
    finite = np.isfinite(ends[0]) & np.isfinite(ends[1])  # encode refuses the others before they get here
    lower, upper = np.where(finite, np.minimum(*ends), 0), np.where(finite, np.maximum(*ends), 0)
    exact = companded_borders()
    borders = exact.astype(dtype)
    borders = np.where(borders < exact, np.nextafter(borders, dtype.type(np.inf)), borders)
    first, last = (np.searchsorted(borders, end, side="right").astype(np.int32) for end in (lower, upper))
    assert (last - first).max() <= 1, "an interval holds two borders: raise _MANTISSA_BITS"
    border = np.where(last > first, borders[np.minimum(first, BINS - 2)], np.inf).astype(dtype)
    return first, border, bits, bits.type(shift)
