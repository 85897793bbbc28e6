"""What is packed comes out again, and nothing else is let in."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gato.client.messages import ARRAY, DTYPES, MessageError, decode, encode

VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
    ),
    value=VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=9), VALUES, max_size=3),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(array, value):
    message = decode(encode({"type": "act", "array": array, "value": value}))
    assert message["array"].dtype == array.dtype
    assert message["array"].shape == array.shape
    np.testing.assert_array_equal(message["array"], array)
    assert message["array"].flags.writeable
    assert message["value"] == value


def test_foreign_byte_order_and_numpy_numbers_are_sent_as_they_are_meant():
    message = decode(
        encode({"type": "x", "a": np.arange(3, dtype=">i4"), "b": np.float32(0.5), "c": np.eye(3)[:, ::2]})
    )
    np.testing.assert_array_equal(message["a"], [0, 1, 2])
    assert message["b"] == np.float32(0.5)
    np.testing.assert_array_equal(message["c"], np.eye(3)[:, ::2])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([object()]), "dtype object"),
        (np.zeros(1, complex), "complex128"),
        (np.array(["a"]), "dtype <U1"),
        ({1, 2}, "set"),
        (1 << 70, "cannot be sent"),
        ("\ud800", "cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_named(value, message):
    with pytest.raises(MessageError, match=message):
        encode({"type": "x", "value": value})


@pytest.mark.parametrize(
    ("dtype", "shape", "content", "message"),
    [
        ("|O", [1], b"\0" * 8, "dtype '|O'"),
        ("<f8", [1 << 50], b"\0" * 8, "got 8 bytes"),
        ("<f8", [2], b"\0" * 8, "16 bytes, got 8"),
        ("<f8", [-1], b"", "whole numbers"),
        ("<f8", [True], b"\0" * 8, "whole numbers"),
        ("<f8", [1] * 9, b"\0" * 8, "at most 8"),
        ("<f8", [1], "text", "got str"),
    ],
)
def test_an_array_is_what_it_says(dtype, shape, content, message):
    inside = msgpack.packb([dtype, shape, content])
    with pytest.raises(MessageError, match=message.replace("|", r"\|")):
        decode(msgpack.packb({"type": "x", "value": msgpack.ExtType(ARRAY, inside)}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data):
    with contextlib.suppress(MessageError):
        assert isinstance(decode(data)["type"], str)
