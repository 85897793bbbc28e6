"""Messages between a policy server and its clients: msgpack maps, numpy arrays among their values.

An array is the extension type 1, whose data is again msgpack: ``[dtype, shape, bytes]``, little-endian, row-major.
Nothing in a message can name code. What is declared is compared with the bytes that are there before anything is
allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

PROTOCOL = 1
ARRAY = 1
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
_MOST_AXES = 8
_LONGEST_LIST, _LARGEST_MAP = 1 << 20, 1 << 12


class MessageError(Exception):
    """Bytes that are no message, or a value that no message can hold."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One message. Values: None, bool, int, float, str, bytes, lists, maps, numpy arrays and scalars.

    Raises MessageError: a value of another type; it is named.
    """
    try:
        return msgpack.packb(message, default=_pack)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise MessageError(f"cannot be sent: {error}") from None


def decode(data: bytes | str) -> dict[str, Any]:
    """The message in one frame; its arrays are writable copies.

    Raises MessageError: it is a text frame, no msgpack, no map with a string under "type", or holds an array that is
    not what it says.
    """
    if isinstance(data, str):
        raise MessageError("a text frame; messages are binary frames of msgpack")
    try:
        message = msgpack.unpackb(
            data, ext_hook=_unpack, max_array_len=_LONGEST_LIST, max_map_len=_LARGEST_MAP, timestamp=0
        )
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MessageError(f"no msgpack: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MessageError('a message is a map with a string under "type"')
    return message


def _pack(value: Any) -> msgpack.ExtType:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{type(value).__name__} is no number, text, array, list or map")
    array = np.asarray(value)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise TypeError(f"an array of dtype {array.dtype}; possible are {', '.join(DTYPES)}")
    return msgpack.ExtType(ARRAY, msgpack.packb([little.dtype.str, list(array.shape), little.tobytes()]))


def _unpack(code: int, data: bytes) -> np.ndarray:
    if code != ARRAY:
        raise MessageError(f"extension type {code}; only arrays (type {ARRAY}) are understood")
    try:
        dtype, shape, content = msgpack.unpackb(data)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException):
        raise MessageError("an array is [dtype, shape, bytes]") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MessageError(f"an array of dtype {str(dtype)[:40]!r}; possible are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError(f"an array's shape is a list of at most {_MOST_AXES} whole numbers >= 0")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(content, bytes) or len(content) != expected:
        found = f"{len(content)} bytes" if isinstance(content, bytes) else type(content).__name__
        raise MessageError(f"an array {dtype} {shape} has {expected} bytes, got {found}"[:200])
    return np.frombuffer(content, dtype).reshape(shape).copy()
