from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gato.tokenizers import discrete
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec

DTYPES = st.sampled_from([np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])


@given(DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, (3, 2), elements=st.integers(0, 100))))
def test_round_trip(values: np.ndarray) -> None:
    ids = discrete.encode(values, LeafSpec("discrete", (2,), values=101))
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(discrete.decode(ids), values)


def test_booleans() -> None:
    assert discrete.encode(np.array([True, False]), LeafSpec("discrete", values=2)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 3]), r"leaf: value 3 at \[1\] lies outside the declared 0\.\.2"),
        (np.array([0, -1], np.int8), r"leaf: value -1 at \[1\]"),
        (np.array([2**64 - 1], np.uint64), "leaf: value 18446744073709551615"),
        (np.array([1.0]), "leaf: dtype float64"),
    ],
)
def test_what_is_not_declared_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        discrete.encode(values, LeafSpec("discrete", values=3), "leaf")
