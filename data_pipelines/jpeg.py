"""JPEG files in the store: camera images are kept as they came, or encoded once at a quality that hides nothing.

Pillow (libjpeg-turbo) decodes; it stops at damage where other readers fill the rest with grey.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

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
    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            wanted = "L" if shape[2] == 1 else "RGB"
            if (image.height, image.width) != shape[:2]:
                raise ValueError(f"an image of {image.height}x{image.width}, the spec says {shape[0]}x{shape[1]}")
            if image.mode != wanted:
                raise ValueError(f"a {image.mode} image, the spec says {shape[2]} channels")
            return np.asarray(image).reshape(shape)
    except UnidentifiedImageError:
        raise ValueError(f"no JPEG file ({len(file)} bytes)") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"a damaged JPEG file: {error}") from error
