"""Files of pictures: read exactly, or refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import pictures


def file_of(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 3)])
def test_a_flipped_bit_in_a_png_is_noticed(shape):
    """It has checksums, but Pillow decodes the pixels without looking at them: flat ones are often wrong then."""
    rng = np.random.default_rng(0)
    pixels = np.full(shape, 7, np.uint8)
    good = file_of(pixels, "PNG")
    np.testing.assert_array_equal(pictures.decode(good, "here"), pixels.reshape(64, 48, -1))
    concealed = 0
    for place in [*range(len(good) - 12)] * 3:  # the last chunk holds nothing, and is not needed
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(SourceError, match="here: "):
            pictures.decode(bytes(data), "here")
        try:
            with Image.open(io.BytesIO(data)) as image:
                concealed += not np.array_equal(np.asarray(image), pixels)
        except (OSError, SyntaxError, ValueError):
            pass
    assert concealed > 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_was_cut_is_refused(kind):
    pixels = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    good = file_of(pixels, kind)
    assert pictures.decode(good, "here").shape == (24, 32, 3)
    for size in (0, 3, 20, len(good) // 2, len(good) - 20):
        with pytest.raises(SourceError, match="here: "):
            pictures.decode(good[:size], "here")
