from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gato.tokenizers import continuous
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec

OBSERVATION = LeafSpec("continuous")
UNIT = LeafSpec("continuous", low=-1, high=1)


def _floats(limit: float, width: int) -> st.SearchStrategy[np.ndarray]:
    bound = float(np.float32(limit))
    elements = st.floats(-bound, bound, width=32 if width == 32 else 64)
    return hnp.arrays(np.float32 if width == 32 else np.float64, hnp.array_shapes(max_dims=3), elements=elements)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_border_is_exact(dtype: type) -> None:
    """The smallest value of a bin is in it, and the float before it is in the bin before."""
    exact = continuous.companded_borders()
    at: np.ndarray = exact.astype(dtype)
    at = np.where(at < exact, np.nextafter(at, dtype(np.inf)), at)
    before = np.nextafter(at, dtype(-np.inf))
    np.testing.assert_array_equal(continuous.encode(at, OBSERVATION, True), np.arange(1, 1024))
    np.testing.assert_array_equal(continuous.encode(before, OBSERVATION, True), np.arange(1023))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_agrees_with_the_formula_away_from_borders(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(200_000) * np.exp(2 * rng.standard_normal(200_000))).astype(dtype)
    place = (continuous.mu_law(x).clip(-1, 1) + 1) / 2 * 1024
    clear = (np.abs(place - np.round(place)) > 1e-9) | (place == 1024)
    expected = np.minimum(np.floor(place), 1023)
    np.testing.assert_array_equal(continuous.encode(x, OBSERVATION, True)[clear], expected[clear])
    assert clear.mean() > 0.99


@given(st.sampled_from([32, 64]).flatmap(lambda width: _floats(256, width)))
def test_companded_round_trip_is_within_half_a_bin(x: np.ndarray) -> None:
    bins = continuous.encode(x, OBSERVATION, True)
    assert bins.dtype == np.int32
    assert bins.shape == x.shape
    assert bins.min() >= 0
    assert bins.max() <= 1023
    error = continuous.mu_law(continuous.decode(bins, OBSERVATION, True)) - continuous.mu_law(x)
    assert np.abs(error).max() <= 1 / 1024 + 1e-12
    np.testing.assert_array_equal(
        continuous.encode(continuous.decode(bins, OBSERVATION, True), OBSERVATION, True), bins
    )


@given(st.sampled_from([32, 64]).flatmap(lambda width: _floats(1, width)))
def test_plain_round_trip_is_within_half_a_bin_and_exact(x: np.ndarray) -> None:
    bins = continuous.encode(x, UNIT, False, is_action=True)
    assert np.abs(continuous.decode(bins, UNIT, False, is_action=True) - x).max() <= 1 / 1024
    assert ((bins >= 512) == (x >= 0)).all()  # also for -1e-30, which (x + 1) / 2 would round up


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.floats(0, 1))
def test_scaled_round_trip_stays_in_the_declared_range(low: float, width: float, share: float) -> None:
    leaf = LeafSpec("continuous", (2,), low=(low, -2.0), high=(low + width, 5.0))
    x = np.array([[low + share * width, -2 + 7 * share]])
    bins = continuous.encode(x, leaf, False, is_action=True)
    decoded = continuous.decode(bins, leaf, False, is_action=True)
    half = np.array([width, 7.0]) / 2048
    assert (np.abs(decoded - x) <= half * (1 + 1e-6) + 1e-12).all()
    assert (decoded >= leaf.low).all()
    assert (decoded <= leaf.high).all()


@given(_floats(1e6, 64))
def test_encoding_is_monotone(x: np.ndarray) -> None:
    for companded in (True, False):
        assert (np.diff(continuous.encode(np.sort(x.ravel()), OBSERVATION, companded)) >= 0).all()


def test_the_ends_fall_in_the_outermost_bins() -> None:
    for leaf, low, high in ((UNIT, -1, 1), (LeafSpec("continuous", low=-3, high=9), -3, 9)):
        assert continuous.encode(np.array([low, high], np.float32), leaf, False, is_action=True).tolist() == [0, 1023]
    assert continuous.encode(np.array([-256.0, 256.0]), OBSERVATION, True).tolist() == [0, 1023]
    assert continuous.encode(np.array([-0.0, 0.0]), OBSERVATION, True).tolist() == [512, 512]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "uint64", "float16", ">f4", ">f8"])
def test_dtypes(dtype: str) -> None:
    x = np.array([0, 1], dtype)
    for companded in (True, False):
        expected = continuous.encode(np.array([0.0, 1.0]), UNIT, companded)
        np.testing.assert_array_equal(continuous.encode(x, UNIT, companded), expected)
    assert continuous.encode(np.array([2**63], np.uint64), OBSERVATION, True)[0] == 1023


def test_scalars_views_and_empty_arrays() -> None:
    assert continuous.encode(2.5, OBSERVATION, True) == 32790 - 32000
    x = np.linspace(-300, 300, 60).reshape(6, 10)
    np.testing.assert_array_equal(
        continuous.encode(x[::2, ::-3], OBSERVATION, True), continuous.encode(x, OBSERVATION, True)[::2, ::-3]
    )
    assert continuous.encode(np.zeros((0, 3)), OBSERVATION, True).shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("companded", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_name_the_leaf_and_the_place(bad: float, companded: bool, dtype: type) -> None:
    x: np.ndarray = np.zeros((4, 2), dtype)
    x[3, 1] = bad
    with pytest.raises(SpecError, match=r"observation 'arm\.torque': NaN or infinity at \[3, 1\]"):
        continuous.encode(x, UNIT, companded, where="observation 'arm.torque'")


def test_strings_are_refused() -> None:
    with pytest.raises(SpecError, match="leaf: dtype <U1"):
        continuous.encode(np.array(["a"]), OBSERVATION, True, where="leaf")


def test_what_saturates_takes_the_outermost_bin() -> None:
    x = np.array([-1e30, -256.0, 0.0, 256.0, 256.1])
    assert continuous.encode(x, OBSERVATION, True).tolist() == [0, 0, 512, 1023, 1023]
    assert continuous.encode(x, UNIT, False, is_action=True).tolist() == [0, 0, 512, 1023, 1023]
    tenth = LeafSpec("continuous", low=-0.1, high=0.1)
    ends = np.array([-1e30, -0.1, 0.1, 0.11, 1e30], np.float32)  # float32(-0.1) < -0.1 < 0.1 < float32(0.1)
    assert continuous.encode(ends, tenth, False, is_action=True).tolist() == [0, 0, 1023, 1023, 1023]


def test_who_is_companded() -> None:
    assert continuous.is_companded(OBSERVATION, is_action=False)
    assert continuous.is_companded(LeafSpec("continuous", low=-2, high=2), is_action=False)
    assert continuous.is_companded(LeafSpec("continuous", (2,), low=(-1, -1), high=(1, 1.5)), is_action=False)
    assert not continuous.is_companded(LeafSpec("continuous", low=0, high=1), is_action=False)
    assert not continuous.is_companded(LeafSpec("continuous", low=-5, high=5), is_action=True)
    assert not continuous.is_companded(LeafSpec("continuous", companded=False), is_action=False)
    assert continuous.is_companded(LeafSpec("continuous", companded=True), is_action=True)


def test_observations_in_the_unit_range_are_not_stretched_but_actions_are() -> None:
    leaf = LeafSpec("continuous", low=0, high=1)
    assert continuous.encode(0.5, leaf, False) == 768
    assert continuous.encode(0.5, leaf, False, is_action=True) == 512
    assert continuous.encode(5.0, LeafSpec("continuous", low=-10, high=10, companded=False), False) == 768


@settings(max_examples=20)
@given(hnp.arrays(np.int64, 16, elements=st.integers(0, 1023)))
def test_a_companded_leaf_decodes_inside_its_declared_range(bins: np.ndarray) -> None:
    leaf = LeafSpec("continuous", (2,), low=(-3, 0), high=(2, 100))
    values = continuous.decode(bins.reshape(8, 2), leaf, True)
    assert (values >= leaf.low).all()
    assert (values <= leaf.high).all()
