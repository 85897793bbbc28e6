"""Images -> 16 x 16 patches in raster order, and where each patch lies in its image.

Source: Gato section 2.1 (patches) and its appendix on patch positions. Pixels stay uint8 here; they are normalised on
the device: ``(x / 255 * 2 - 1) / sqrt(16)``, which lies in [-0.25, 0.25].
"""

from __future__ import annotations

import functools

import numpy as np

from gato.tokenizers.errors import SpecError

PATCH = 16
POSITIONS = 128


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image; sides that are no multiple of 16 are padded."""
    return -(-height // PATCH), -(-width // PATCH)


def to_patches(images: np.ndarray, where: str = "image") -> np.ndarray:
    """uint8 [T, H, W, C] with C 1 or 3 -> uint8 [T, n, 16, 16, 3], n patches of each image in raster order.

    Sides that are no multiple of 16 are padded at the far edge with the edge's own pixels; one channel is repeated to
    three.

    Raises:
      SpecError: another dtype or shape.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise SpecError(f"{where}: dtype {images.dtype}, but images are uint8 (0..255)")
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:3]:
        raise SpecError(f"{where}: shape {images.shape} instead of [steps, height, width, 1 or 3]")
    steps, height, width, channels = images.shape
    rows, columns = patch_grid(height, width)
    if (rows * PATCH, columns * PATCH) != (height, width):
        padding = ((0, 0), (0, rows * PATCH - height), (0, columns * PATCH - width), (0, 0))
        images = np.pad(images, padding, mode="edge")
    if channels == 3:
        # Moving whole 48-byte pixel rows is several times faster than moving single bytes.
        rows_of_pixels = np.ascontiguousarray(images).reshape(-1).view("V48").reshape(steps, rows, PATCH, columns)
        patches = np.ascontiguousarray(rows_of_pixels.transpose(0, 1, 3, 2)).reshape(-1).view(np.uint8)
        return patches.reshape(steps, rows * columns, PATCH, PATCH, 3)
    grey = images.reshape(steps, rows, PATCH, columns, PATCH).transpose(0, 1, 3, 2, 4)
    patches = np.empty((steps, rows, columns, PATCH, PATCH, 3), np.uint8)
    for channel in range(3):
        patches[..., channel] = grey
    return patches.reshape(steps, rows * columns, PATCH, PATCH, 3)


def patch_fractions(height: int, width: int) -> np.ndarray:
    """float64 [n, 4]: row start, row stop, column start, column stop of each patch, as fractions of padded sides."""
    rows, columns = patch_grid(height, width)
    row, column = (index.ravel() for index in np.mgrid[:rows, :columns])
    return np.stack([row / rows, (row + 1) / rows, column / columns, (column + 1) / columns], axis=1)


@functools.lru_cache(maxsize=256)
def patch_intervals(height: int, width: int) -> np.ndarray:
    """int16 [n, 4]: `patch_fractions` in 128ths, rounded to the nearest integer. Read-only.

    Stops are exclusive: training draws a patch's row position from ``start .. stop - 1``.

    Raises:
      SpecError: more than 128 patches along a side, where some patch would have no position of its own.
    """
    if max(patch_grid(height, width)) > POSITIONS:
        raise SpecError(
            f"an image of {height} x {width} pixels has more than {POSITIONS} patches along a side; "
            f"resize it to at most {POSITIONS * PATCH} pixels"
        )
    intervals = np.floor(patch_fractions(height, width) * POSITIONS + 0.5).astype(np.int16)
    intervals.flags.writeable = False
    return intervals


@functools.cache
def evaluation_table() -> np.ndarray:
    """int16 [129, 129]: position at evaluation of a patch by its interval's start and stop along one side. Read-only.

    The paper takes the rounded mean of the patch's two *fractions*, which is not always the mean of the rounded ends.
    The interval gives it away: uniquely for up to 14 patches a side (224 pixels); beyond, intervals of different images
    coincide and the position of the likelier one is given, at most one off (powers of two are exact).
    """
    table = np.zeros((POSITIONS + 1, POSITIONS + 1), np.int16)
    likeliest_first = [*range(1, 15), 16, 32, 64, 128, *range(15, POSITIONS)]
    for patches in reversed(likeliest_first):
        ends = np.arange(patches + 1) / patches
        bounds = np.floor(ends * POSITIONS + 0.5).astype(np.int64)
        middle = np.floor((ends[:-1] + ends[1:]) / 2 * POSITIONS + 0.5)
        table[bounds[:-1], bounds[1:]] = np.minimum(middle, POSITIONS - 1)
    table.flags.writeable = False
    return table
