"""JPEG files in the store: camera images are kept as they came, or encoded once at a quality that hides nothing.

simplejpeg decodes: the values of Pillow (both are libjpeg-turbo) in half its time for small images. It refuses every
file that libjpeg warns of, where Pillow takes damaged pixels for good.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
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
    if not is_jpeg(file):
        raise ValueError(f"no JPEG file ({len(file)} bytes)")
    channels = "GRAY" if shape[2] == 1 else "RGB"
    try:
        height, width, stored, _ = simplejpeg.decode_jpeg_header(file)
        image = simplejpeg.decode_jpeg(file, channels) if (height, width) == shape[:2] else None
    except ValueError as error:
        raise ValueError(f"a damaged JPEG file: {error}") from error
    if image is None:
        raise ValueError(f"an image of {height}x{width}, the spec says {shape[0]}x{shape[1]}")
    # Other kinds (CMYK) would be converted in silence.
    if stored not in (["Gray"] if shape[2] == 1 else ["YCbCr", "RGB"]):
        raise ValueError(f"a {stored} image, the spec says {shape[2]} channels")
    return image
