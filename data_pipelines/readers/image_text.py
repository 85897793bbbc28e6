"""Pictures with text: a folder with a JSONL list, or WebDataset tars. One (picture, text) pair is a document.

A folder holds ``captions.jsonl`` or ``metadata.jsonl`` with an object a line: ``{"image": "a.jpg", "text": "a ball"}``,
or ``{"image": "a.jpg", "question": "what is it?", "answer": "a ball"}``. Texts may be lists: each is a document of its
own. ``file_name`` and ``caption`` are understood, too.

In tars the files of one sample have the same name and another ending: ``0001.jpg`` with ``0001.txt`` (a caption) or
with ``0001.json`` (an object as above, without ``image``).

Every picture is scaled and cut to one size, 224 x 224 unless ``options={"size": (H, W)}`` says otherwise; a JPEG file
of this size is kept as it is.

Rows of training are packed with as many pairs as fit, and no pair sees another. Gato's rows hold five pairs that stand
in one sequence: ``options={"pairs": 5, "size": (192, 192)}`` makes documents of five random pairs each. Five pictures
of this size are 720 of a row's 1,024 tokens, which leaves 60 for each text (224 x 224 would leave 8; the paper cut
them). A bad pair costs no good one: one of its neighbours stands in its place a second time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines import draws, jpeg
from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import pictures
from gato.data_pipelines.readers.leaves import first_good
from gato.data_pipelines.readers.pairs import Pairs, Sample
from gato.data_pipelines.readers.samples import Folder, Tars
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import LeafSpec

LISTS = ("captions.jsonl", "metadata.jsonl")
SIZE = (224, 224)


class ImageTextReader:
    """See the module.

    Args:
      path: the folder, a tar, or a folder of tars. leaves: must be empty.
      size: of the pictures, (height, width). pairs: in one document.
    """

    def __init__(
        self, path: Path, leaves: Mapping[str, GivenLeaf], size: tuple[int, int] = SIZE, pairs: int = 1
    ) -> None:
        if leaves:
            raise SourceError(f"{path}: pictures with text have fixed leaves; leaves and values cannot be given")
        self._size, self.name = tuple(size), path.name.split(".")[0]
        self.metadata: dict[str, Any] = {}
        listed = next((path / name for name in LISTS if (path / name).exists()), None)
        self._samples: Folder | Tars = Folder(path, listed) if listed is not None else Tars(path)
        if not len(self._samples):
            raise SourceError(f"{path}: no picture with a text in it")
        self.unreadable = self._samples.unreadable
        self.identity = identity_of(self._samples.files, self._size, pairs)
        count = len(self._samples)
        self._pairs = Pairs(path, np.arange(count) if pairs == 1 else draws.permutation(count, "pairs"), pairs)
        self._texts = first_good(count, lambda member: tuple(self._texts_of(member)[0]))  # ("text",), or with an answer
        image = LeafSpec("image", (*self._size, 3))
        self.spec = self._pairs.spec({"image": image, **dict.fromkeys(self._texts, LeafSpec("text"))})
        self.jpeg = tuple(name for name, leaf in self.spec.observations.items() if leaf.modality == "image")

    def __len__(self) -> int:
        return len(self._pairs)

    def where(self, index: int, number: int = 0) -> str:
        return self._samples.where(self._pairs.members(index)[0])

    def read(self, index: int) -> Iterable[Episode | GatoError]:
        return self._pairs.documents(index, map(self._sample, self._pairs.members(index)))

    def _sample(self, member: int) -> Sample | SourceError:
        where = self._samples.where(member)
        try:
            texts = self._texts_of(member)
            if tuple(texts[0]) != self._texts:
                raise SourceError(f"{where}: captions and questions in one source; import them as two")
            return {"image": fitted(self._samples.picture(member), self._size, where)}, texts
        except SourceError as error:
            return error

    def _texts_of(self, member: int) -> list[dict[str, str]]:
        return texts_of(self._samples.about(member), self._samples.where(member))


def fitted(file: bytes, size: tuple[int, ...], where: str) -> bytes:
    """The picture as a JPEG file of this size: as it came, or scaled, cut and encoded once more."""
    image = pictures.decode(file, where)
    if jpeg.is_jpeg(file) and image.shape == (*size, 3):
        with contextlib.suppress(ValueError):  # e.g. CMYK
            jpeg.decode(file, image.shape)
            return file
    return jpeg.encode(pictures.fit(image, (size[0], size[1])))


def texts_of(about: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """What is said about a picture: captions, or questions with their answers. Raises SourceError if nothing is."""
    if "question" in about:
        questions, answers = _strings(about, "question", where), _strings(about, "answer", where)
        if len(questions) == 1:
            questions = questions * len(answers)  # the question was put to several people
        if len(questions) != len(answers):
            raise SourceError(f"{where}: {len(questions)} questions, but {len(answers)} answers")
        return [{"question": question, "answer": answer} for question, answer in zip(questions, answers, strict=True)]
    name = next((name for name in ("text", "caption") if name in about), None)
    if name is None:
        raise SourceError(f"{where}: no field 'text', nor 'question' and 'answer'")
    return [{"text": text} for text in _strings(about, name, where)]


def _strings(about: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = about.get(name)
    values: list[Any] = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text.strip() for text in values):
        raise SourceError(f"{where}: field {name!r} is empty or no text")
    return values
