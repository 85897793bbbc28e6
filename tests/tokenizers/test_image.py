from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.tokenizers import image
from gato.tokenizers.errors import SpecError


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_patches_hold_every_pixel_in_raster_order(
    steps: int, height: int, width: int, channels: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (steps, height, width, channels), np.uint8)
    patches = image.to_patches(images)
    rows, columns = image.patch_grid(height, width)
    assert patches.shape == (steps, rows * columns, 16, 16, 3)
    assert patches.dtype == np.uint8
    assert len(image.patch_intervals(height, width)) == rows * columns
    for r in range(0, rows * 16, 7):
        for c in range(0, columns * 16, 7):
            found = patches[:, (r // 16) * columns + c // 16, r % 16, c % 16]
            expected = images[:, min(r, height - 1), min(c, width - 1)]  # the far edge is repeated
            np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_views_are_copied_right() -> None:
    images = np.arange(2 * 32 * 64 * 3, dtype=np.uint8).reshape(2, 32, 64, 3)
    np.testing.assert_array_equal(image.to_patches(images[:, :, ::2]), image.to_patches(images[:, :, ::2].copy()))


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 16, 16, 3)), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 16, 4), np.uint8)],
    ids=["float", "no time axis", "four channels"],
)
def test_what_is_no_image_is_refused(images: np.ndarray) -> None:
    with pytest.raises(SpecError, match="observation 'camera'"):
        image.to_patches(images, "observation 'camera'")


def test_intervals_are_never_empty_and_evaluation_falls_inside() -> None:
    table = image.evaluation_table()
    for side in range(1, image.POSITIONS + 1):
        intervals = image.patch_intervals(16 * side, 16)
        assert (intervals[:, 1] > intervals[:, 0]).all()
        assert (intervals[1:, 0] == intervals[:-1, 1]).all()
        positions = table[intervals[:, 0], intervals[:, 1]]
        middle = (2 * np.arange(side) + 1) / (2 * side) * 128
        exact = np.minimum(np.floor(middle + 0.5), 127)
        assert np.abs(positions - exact).max() <= (0 if side <= 14 or side in (16, 32, 64, 128) else 1)
    assert not table.flags.writeable


def test_the_papers_example() -> None:
    """An 80 x 64 image: rows [0.25, 0.5] -> [32, 64] -> 48; columns in fifths [0.4, 0.6] -> [51, 77] -> 64."""
    intervals = image.patch_intervals(64, 80)
    patch = 1 * 5 + 2
    assert intervals[patch].tolist() == [32, 64, 51, 77]
    assert image.evaluation_table()[[32, 51], [64, 77]].tolist() == [48, 64]


def test_more_patches_than_positions_are_refused() -> None:
    with pytest.raises(SpecError, match="2064 x 16"):
        image.patch_intervals(129 * 16, 16)
