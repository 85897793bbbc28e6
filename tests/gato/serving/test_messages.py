"""What is packed comes out again, and nothing else is let in."""

from __future__ import annotations

import contextlib
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gato.client.messages import ARRAY, DTYPES, MOST_VALUES, MessageError, decode, encode, holds_at_most

VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
    ),
    value=VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=9), VALUES, max_size=3),
)
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


def test_arrays_of_texts_are_texts():
    message = decode(encode({"type": "x", "several": np.array(["go", "\N{SNOWMAN}"]), "one": np.array("go")}))
    assert (message["several"], message["one"]) == (["go", "\N{SNOWMAN}"], "go")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([object()]), "dtype object"),
        (np.zeros(1, complex), "complex128"),
        (np.array([b"a"]), r"dtype \|S1"),
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


ANYTHING = st.recursive(
    VALUES | st.binary(max_size=70_000) | st.text(max_size=300) | st.builds(msgpack.ExtType, st.just(1), st.binary()),
    lambda inside: st.lists(inside, max_size=20) | st.dictionaries(st.text(max_size=40), inside, max_size=20),
)


def values(thing):
    if isinstance(thing, list):
        return 1 + sum(map(values, thing))
    return 1 + sum(1 + values(value) for value in thing.values()) if isinstance(thing, dict) else 1


@given(ANYTHING)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_values_are_counted_wherever_they_are(thing):
    data = msgpack.packb(thing)
    assert holds_at_most(values(thing), data)
    assert not holds_at_most(values(thing) - 1, data)


@pytest.mark.parametrize("count", [*(14, 15, 16, 70_000), *(1 << 8, (1 << 8) - 1, (1 << 16) - 1, 1 << 16)])
def test_every_kind_of_length_is_read(count):
    for thing, expected in (
        ([None] * count, 1 + count),
        (dict.fromkeys(range(count)), 1 + 2 * count),
        (["x" * count, 1], 3),
        ([b"x" * count, 1], 3),
        ([msgpack.ExtType(1, b"x" * count), 1], 3),
    ):
        data = msgpack.packb(thing)
        assert holds_at_most(expected, data)
        assert not holds_at_most(expected - 1, data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa4type\xa1x\xa1v\xdd\x00\x0f\xff\xff" + b"\x80" * ((1 << 20) - 1),  # small maps
        b"\x82\xa4type\xa1x\xa1v" + b"\xdd\x00\x0f\xff\xff" * 900,  # room for a million values each, one in the other
        msgpack.packb({"type": "x", "v": msgpack.ExtType(ARRAY, b"\xdd\x00\x0f\xff\xff" * 900)}),
        encode({"type": "x", "v": [0] * (MOST_VALUES - 4)}),
    ],
)
def test_a_small_message_does_not_become_large(data):
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=r"more than 65,536 values|an array is"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_as_many_values_as_are_allowed():
    assert len(decode(encode({"type": "x", "v": [0] * (MOST_VALUES - 5)}))["v"]) == MOST_VALUES - 5
