"""JPEG files are decoded as Pillow's own way of opening them does, without what that costs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines import jpeg

SHAPE = (40, 56, 3)


def picture(seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(256, size=(5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((SHAPE[1], SHAPE[0]), Image.Resampling.BICUBIC)


def saved(image: Image.Image, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize(
    "settings",
    [
        {"quality": 95, "subsampling": 0},
        {"quality": 40, "subsampling": 2},
        {"progressive": True},
        {"comment": b"\xff\xc0 " * 50},
        {"exif": b"Exif\x00\x00" + bytes(500)},
        {"keep_rgb": True},
        {"restart_marker_blocks": 2},
    ],
    ids=str,
)
def test_the_pixels_are_those_of_pillow(settings):
    file = saved(picture(), **settings)
    np.testing.assert_array_equal(jpeg.decode(file, SHAPE), opened(file))
    np.testing.assert_array_equal(jpeg.decode(file + b"\0" * 9, SHAPE), opened(file))
    grey = saved(picture().convert("L"), **{k: v for k, v in settings.items() if k != "keep_rgb"})
    np.testing.assert_array_equal(jpeg.decode(grey, (*SHAPE[:2], 1))[..., 0], opened(grey))


def test_another_size_and_other_channels_are_refused():
    file = saved(picture())
    with pytest.raises(ValueError, match="an image of 40x56, the spec says 56x40"):
        jpeg.decode(file, (56, 40, 3))
    with pytest.raises(ValueError, match="an image of 3 channels, the spec says 1"):
        jpeg.decode(file, (40, 56, 1))
    with pytest.raises(ValueError, match="an image of 4 channels, the spec says 3"):
        jpeg.decode(saved(picture().convert("CMYK")), SHAPE)
    for junk in (b"", b"\xff\xd8\xff", b"\x89PNG" * 20, file[1:]):
        with pytest.raises(ValueError, match="no JPEG file"):
            jpeg.decode(junk, SHAPE)


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_that_pillow_finds_is_found(progressive):
    file = saved(picture(), progressive=progressive)
    rng = np.random.default_rng(0)
    damaged = [file[:size] for size in range(0, len(file) - 2, 3)]
    for _ in range(400):
        changed = bytearray(file)
        changed[int(rng.integers(len(file)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        try:
            expected = opened(data)
        except (OSError, SyntaxError, ValueError):
            expected = None
        try:
            found = jpeg.decode(data, SHAPE)
        except ValueError:
            refused += 1
            continue
        assert expected is not None
        np.testing.assert_array_equal(found, expected)
    assert refused > len(file) // 3 - 3
