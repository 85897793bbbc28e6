"""Pictures as other formats hold them: PNG, JPEG or WebP files, or arrays. Damage is an error, never grey pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gato.data_pipelines import jpeg
from gato.data_pipelines.errors import SourceError
from gato.tokenizers.spec import LeafSpec

FORMATS = ("JPEG", "PNG", "WEBP")
_PNG = b"\x89PNG"


def images(raw: Sequence[Any], leaf: LeafSpec, where: str, *, as_files: bool = False) -> Any:
    """The pictures of T timesteps: uint8 [T, H, W, C], or a list of JPEG files as they came (``as_files``).

    Raises:
      SourceError: a damaged file, or another size than the leaf's.
    """
    if as_files and all(isinstance(value, bytes) and jpeg.is_jpeg(value) for value in raw):
        return list(raw)
    arrays = []
    for step, value in enumerate(raw):
        array = decode(value, f"{where}: step {step}") if isinstance(value, bytes) else np.asarray(value)
        if array.ndim == 2:
            array = array[..., None]
        if array.shape != leaf.shape or array.dtype != np.uint8:
            raise SourceError(
                f"{where}: step {step}: an image of {array.dtype} {array.shape}, the spec says uint8 {leaf.shape}"
            )
        arrays.append(array)
    return np.stack(arrays)


def decode(file: bytes, where: str) -> np.ndarray:
    """uint8 [H, W, 1 or 3] of an image file; transparency is dropped. Raises SourceError if it is damaged."""
    try:
        if file.startswith(_PNG):
            with Image.open(io.BytesIO(file), formats=("PNG",)) as image:
                image.verify()  # Pillow compares the checksums of the pixels here only, not where it decodes them
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            mode = "L" if image.mode in ("L", "1") else "RGB"
            array = np.asarray(image.convert(mode))
    except UnidentifiedImageError:
        raise SourceError(f"{where}: no image file ({', '.join(FORMATS)}), or its beginning is damaged") from None
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise SourceError(f"{where}: a damaged image: {error}") from error
    return array[..., None] if array.ndim == 2 else array


def size_of(file: bytes, where: str = "image") -> tuple[int, int]:
    """(height, width) of an image file."""
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise SourceError(f"{where}: no image file, or its beginning is damaged") from error


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture, scaled: uint8 [height, width, 3] of the given size, nothing distorted.

    The shorter side is scaled to fit and the rest of the longer one is cut off at both ends alike.
    """
    height, width = size
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
    scale = max(height / picture.height, width / picture.width)
    scaled = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    picture = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height)))
