"""What a user gives for a text (words, an image file, a question) -> a document of one of the checkpoint's sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gato.tokenizers.errors import GatoError, suggest
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta


class DocumentError(GatoError):
    """A text that this checkpoint cannot write, or a file that is no image."""


def make_document(
    sources: Mapping[str, SourceMeta], image: Path | None, question: str | None, name: str | None = None
) -> tuple[str, dict[str, Any]]:
    """(source, document): what is known before the text that is asked for.

    Args:
      sources: of the checkpoint.
      image: file to look at; it is resized to the size of the source's images.
      question: about the image.
      name: of the source; None: the first one with just these leaves and a text behind them, or several times.

    Raises:
      DocumentError: no such source, or the file is no image.
    """
    wanted = [*(["image"] if image is not None else []), *(["text"] if question is not None else []), "text"]
    documents = {known: meta.spec for known, meta in sources.items() if meta.spec.kind == "document"}
    if not documents:
        raise DocumentError(
            f"this checkpoint knows no text: none of its {len(sources)} sources is of documents; train with some "
            "(text, captions, questions)"
        )
    if name is not None and name not in documents:
        raise DocumentError(f"--source {name!r} is no source of documents here; {suggest(name, documents)}")
    fitting = [known for known in ([name] if name else documents) if _begins(documents[known], wanted)]
    if not fitting:
        about = "; ".join(f"{known}: {', '.join(_modalities(spec))}" for known, spec in documents.items())
        given = " and ".join(wanted[:-1]) or "a prompt alone"
        raise DocumentError(
            f"{name or 'no source of this checkpoint'} {'does not write' if name else 'writes'} text from {given}; "
            f"give --image and --question as one of these has them: {about}"
        )
    leaves = list(documents[fitting[0]].observations.items())
    document: dict[str, Any] = {}
    for path, leaf in leaves[: len(wanted) - 1]:
        document[path] = load_image(image, leaf) if leaf.modality == "image" and image is not None else question
    return fitting[0], document


def load_image(path: Path, leaf: LeafSpec) -> np.ndarray:
    """The picture in a file as the leaf has it, uint8 [height, width, channels]. DocumentError if it is none."""
    height, width, channels = leaf.shape
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except UnidentifiedImageError:
        raise DocumentError(f"{path}: is no image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DocumentError(f"{path}: cannot read the image: {getattr(error, 'strerror', None) or error}") from None
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8).reshape(leaf.shape)


def _begins(spec: EpisodeSpec, wanted: list[str]) -> bool:
    """Whether a document has these leaves, or begins with them where several pictures follow each other."""
    found = _modalities(spec)
    return found[: len(wanted)] == wanted and found[len(wanted) :][:1] in ([], ["image"])


def _modalities(spec: EpisodeSpec) -> list[str]:
    return [leaf.modality for leaf in spec.observations.values()]
