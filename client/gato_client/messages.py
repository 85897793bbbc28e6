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
_MOST_AXES, _MOST_IN_ARRAY = 8, 100
MOST_VALUES = 1 << 16  # of a message, however they are nested; an array is one
# What follows the first byte of a value, as far as its length stands there: bytes of a number or of a fixed extension;
# bytes that hold the length of a text, of bytes or of an extension; bytes that hold the number of a list's or map's
# values. https://github.com/msgpack/msgpack/blob/master/spec.md
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8} | {
    0xD4 + n: 1 + (1 << n) for n in range(5)
}
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNT = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


class MessageError(Exception):
    """Bytes that are no message, or a value that no message can hold."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One message. Values: None, bool, int, float, str, bytes, lists, maps, numpy arrays and scalars; an array of texts
    becomes a list of them.

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
    if not holds_at_most(MOST_VALUES, data):
        raise MessageError(f"more than {MOST_VALUES:,} values; many numbers are sent as an array, which is one value")
    try:
        message = msgpack.unpackb(data, ext_hook=_unpack, timestamp=0)
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MessageError(f"no msgpack: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MessageError('a message is a map with a string under "type"')
    return message


def holds_at_most(most: int, data: bytes) -> bool:
    """Whether there are, or are said to be, no more values than that; known before there is an object for any of them.

    For a value may be one byte and its object sixty, and a list gets its room as soon as its length was read.
    """
    place, left, seen = 0, 1, 0
    while left and place < len(data):
        first = data[place]
        place, left, seen = place + 1, left - 1, seen + 1
        if first in _FIXED:
            place += _FIXED[first]
        elif first in _LENGTH:
            size = _LENGTH[first]
            place += size + int.from_bytes(data[place : place + size]) + (0xC7 <= first <= 0xC9)
        elif first in _COUNT:
            size = _COUNT[first]
            left += int.from_bytes(data[place : place + size]) * (2 if first >= 0xDE else 1)
            place += size
        elif 0x80 <= first < 0x90:
            left += 2 * (first & 0x0F)
        elif 0x90 <= first < 0xA0:
            left += first & 0x0F
        elif 0xA0 <= first < 0xC0:
            place += first & 0x1F
        if seen + left > most:
            return False
    return True


def _pack(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{type(value).__name__} is no number, text, array, list or map")
    array = np.asarray(value)
    if array.dtype.kind == "U":  # what np.load makes of texts
        return array.tolist()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise TypeError(f"an array of dtype {array.dtype}; possible are {', '.join(DTYPES)}")
    return msgpack.ExtType(ARRAY, msgpack.packb([little.dtype.str, list(array.shape), little.tobytes()]))


def _unpack(code: int, data: bytes) -> np.ndarray:
    if code != ARRAY:
        raise MessageError(f"extension type {code}; only arrays (type {ARRAY}) are understood")
    try:
        if not holds_at_most(_MOST_IN_ARRAY, data):
            raise ValueError
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
