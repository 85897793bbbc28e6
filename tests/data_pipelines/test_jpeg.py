"""JPEG files are what Pillow reads, and no damaged one is taken for an image."""

import io

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines import jpeg

PIXELS = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
SHAPE = PIXELS.shape


def file_of(mode: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"keep_rgb": True}]
)
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_the_values_of_pillow(mode: str, channels: int, options: dict[str, object]) -> None:
    file = file_of(mode, **options)
    image = jpeg.decode(file, (*SHAPE[:2], channels))
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(file))).reshape(*SHAPE[:2], channels))


def test_what_was_encoded_is_near() -> None:
    assert np.abs(jpeg.decode(jpeg.encode(PIXELS), SHAPE).astype(int) - PIXELS).mean() < 3


@pytest.mark.parametrize(
    ("file", "shape", "message"),
    [
        (b"", SHAPE, r"no JPEG file \(0 bytes\)"),
        (file_of("L"), SHAPE, "a Gray image, the spec says 3 channels"),
        (file_of("RGB"), (*SHAPE[:2], 1), "a YCbCr image, the spec says 1 channels"),
        (file_of("CMYK"), SHAPE, "a CMYK image, the spec says 3 channels"),
        (file_of("RGB"), (8, 8, 3), "an image of 40x56, the spec says 8x8"),
        (file_of("RGB")[:-100], SHAPE, "a damaged JPEG file"),
        (file_of("RGB")[:30], SHAPE, "a damaged JPEG file"),
    ],
)
def test_what_is_refused(file: bytes, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jpeg.decode(file, shape)


def test_a_cut_file_is_never_an_image() -> None:
    file = file_of("RGB")
    for length in range(len(file) - 2):  # the last two bytes only say that this is the end
        with pytest.raises(ValueError, match="JPEG file"):
            jpeg.decode(file[:length], SHAPE)
