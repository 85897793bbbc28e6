"""JPEG files in the store: camera images are kept as they came, or encoded once at a quality that hides nothing.

Pillow (libjpeg-turbo) decodes; it stops at damage where other readers fill the rest with grey.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

QUALITY = 95  # with 4:4:4 chroma


def is_jpeg(file: bytes) -> bool:
    """Whether a file says of itself that it is JPEG."""
    return file[:3] == b"\xff\xd8\xff"


def encode(image: np.ndarray) -> bytes:
    """uint8 [H, W, 1 or 3] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        buffer, "JPEG", quality=QUALITY, subsampling=0
    )
    return buffer.getvalue()


def decode(file: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The image of a JPEG file, uint8 of ``shape`` (height, width, 1 or 3).

    Raises:
      ValueError: it is no JPEG file, is damaged, or has another size.
    """
    height, width, channels = _frame(file)
    if (height, width) != shape[:2]:
        raise ValueError(f"an image of {height}x{width}, the spec says {shape[0]}x{shape[1]}")
    if channels != shape[2]:
        raise ValueError(f"an image of {channels} channels, the spec says {shape[2]}")
    mode = "L" if channels == 1 else "RGB"
    try:
        # What `Image.open` looks for beside the pixels costs more than a small image's decoding.
        image = Image.frombytes(mode, (width, height), file, "jpeg", mode, "")
    except (OSError, ValueError) as error:
        raise ValueError(f"a damaged JPEG file: {error}") from error
    return np.asarray(image).reshape(shape)


def _frame(file: bytes) -> tuple[int, int, int]:
    """(height, width, channels), as the file's start-of-frame segment says. Raises ValueError if it has none."""
    at = 2 if is_jpeg(file) else len(file)
    while at + 10 <= len(file) and file[at] == 0xFF:
        marker = file[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # those are tables
            height, width, channels = struct.unpack_from(">HHB", file, at + 5)
            return height, width, channels
        if marker == 0xFF:  # a byte that fills
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # nothing follows them
            at += 2
        else:
            at += 2 + int.from_bytes(file[at + 2 : at + 4], "big")
    raise ValueError(f"no JPEG file, or its beginning is damaged ({len(file)} bytes)")
