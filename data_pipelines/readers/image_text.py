"""Pictures with text: a folder with a JSONL list, or WebDataset tars. One (picture, text) pair is a document.

A folder holds ``captions.jsonl`` or ``metadata.jsonl`` with an object a line: ``{"image": "a.jpg", "text": "a ball"}``,
or ``{"image": "a.jpg", "question": "what is it?", "answer": "a ball"}``. Texts may be lists: each is a document of its
own. ``file_name`` and ``caption`` are understood, too.

In tars the files of one sample have the same name and another ending: ``0001.jpg`` with ``0001.txt`` (a caption) or
with ``0001.json`` (an object as above, without ``image``).

Every picture is scaled and cut to one size, 224 x 224 unless ``options={"size": (H, W)}`` says otherwise; a JPEG file
of this size is kept as it is.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gato.data_pipelines import jpeg
from gato.data_pipelines.dataset import identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import pictures
from gato.data_pipelines.readers.text import decoded, document, json_line, lines, read_bytes
from gato.data_pipelines.store import first_line
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

LISTS = ("captions.jsonl", "metadata.jsonl")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SIZE = (224, 224)
_BLOCK = 512  # of tar files


class ImageTextReader:
    """See the module. ``path``: the folder, a tar, or a folder of tars; ``leaves`` must be empty."""

    def __init__(self, path: Path, leaves: Mapping[str, LeafSpec | None], size: tuple[int, int] = SIZE) -> None:
        if leaves:
            raise SourceError(f"{path}: pictures with text have fixed leaves; leaves and values cannot be given")
        self._size, self.name = tuple(size), path.name.split(".")[0]
        self.metadata: dict[str, Any] = {}
        self.jpeg = ("image",)
        listed = next((path / name for name in LISTS if (path / name).exists()), None)
        self._samples: Folder | Tars = Folder(path, listed) if listed is not None else Tars(path)
        if not len(self._samples):
            raise SourceError(f"{path}: no picture with a text in it")
        self.identity = identity_of(self._samples.files, self._size)
        about, where = self._samples.about(0)
        self._question = bool(_texts(about, where)[0][1])
        texts = (
            {"question": LeafSpec("text"), "answer": LeafSpec("text")} if self._question else {"text": LeafSpec("text")}
        )
        self.spec = EpisodeSpec({"image": LeafSpec("image", (*self._size, 3)), **texts}, {}, "document")

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> Iterator[Episode]:
        about, where = self._samples.about(index)
        texts = _texts(about, where)
        file = fitted(self._samples.picture(index), self._size, where)
        for number, (text, answer) in enumerate(texts):
            if bool(answer) != self._question:
                raise SourceError(f"{where}: captions and questions in one source; import them as two")
            leaves = {"question": text, "answer": answer} if self._question else {"text": text}
            yield document({"image": file, **leaves}, f"{index}.{number}")


def fitted(file: bytes, size: tuple[int, ...], where: str) -> bytes:
    """The picture as a JPEG file of this size: as it came, or scaled, cut and encoded once more."""
    image = pictures.decode(file, where)
    if jpeg.is_jpeg(file) and image.shape == (*size, 3):
        with contextlib.suppress(ValueError):  # e.g. CMYK
            jpeg.decode(file, image.shape)
            return file
    return jpeg.encode(pictures.fit(image, (size[0], size[1])))


class Folder:
    """A folder of pictures with a list of their texts."""

    def __init__(self, folder: Path, listed: Path) -> None:
        self._folder, self._listed = folder, listed
        self._lines = lines(listed)
        self.files = [listed]

    def __len__(self) -> int:
        return len(self._lines)

    def about(self, index: int) -> tuple[dict[str, Any], str]:
        where = f"{self._listed}: line {index + 1}"
        return json_line(self._lines[index], where), where

    def picture(self, index: int) -> bytes:
        about, where = self.about(index)
        name = about.get("image", about.get("file_name"))
        if not isinstance(name, str):
            raise SourceError(f"{where}: no field 'image' with the name of a file")
        file = (self._folder / name).resolve()
        if not file.is_relative_to(self._folder.resolve()):
            raise SourceError(f"{where}: image {name!r} lies outside the folder")
        if not file.exists():
            raise SourceError(f"{where}: image {name!r} is missing")
        return read_bytes(file)


class Tars:
    """WebDataset tars. Opening them reads the headers of all members."""

    def __init__(self, path: Path) -> None:
        self.files = [path] if path.is_file() else sorted(path.glob("*.tar"))
        self._samples: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for file in self.files:
            groups: dict[str, dict[str, tuple[int, int]]] = {}
            try:
                with tarfile.open(file, "r:") as archive:
                    for member in archive:
                        if member.isfile():
                            folder, _, base = member.name.rpartition("/")
                            key, _, ending = base.partition(".")
                            groups.setdefault(f"{folder}/{key}", {})[f".{ending.lower()}"] = (
                                member.offset_data,
                                member.size,
                            )
            except (tarfile.TarError, OSError, EOFError) as error:
                raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error
            spans = [span for parts in groups.values() for span in parts.values()]
            last = max((offset + -(-size // _BLOCK) * _BLOCK for offset, size in spans), default=0)
            # tarfile takes a damaged header, or none, for the end of the archive; an archive ends with zeros.
            if self._bytes(file, (last, _BLOCK)) != bytes(_BLOCK):
                raise SourceError(f"{file}: damaged or cut after {len(groups)} samples; copy it again")
            self._samples += [(file, key, parts) for key, parts in groups.items()]

    def __len__(self) -> int:
        return len(self._samples)

    def about(self, index: int) -> tuple[dict[str, Any], str]:
        file, key, parts = self._samples[index]
        where = f"{file}: sample {key.lstrip('/')!r}"
        if ".json" in parts:
            return json_line(self._bytes(file, parts[".json"]), where), where
        for ending in (".txt", ".caption"):
            if ending in parts:
                return {"text": decoded(self._bytes(file, parts[ending]), where)}, where
        raise SourceError(f"{where}: no .txt, .caption or .json beside the picture")

    def picture(self, index: int) -> bytes:
        file, key, parts = self._samples[index]
        for ending in PICTURES:
            if ending in parts:
                return self._bytes(file, parts[ending])
        raise SourceError(f"{file}: sample {key.lstrip('/')!r}: no picture ({', '.join(PICTURES)})")

    @staticmethod
    def _bytes(file: Path, span: tuple[int, int]) -> bytes:
        with file.open("rb") as opened:
            opened.seek(span[0])
            return opened.read(span[1])


def _texts(about: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """(text, "") of captions, (question, answer) of questions."""
    if "question" in about:
        questions, answers = _strings(about, "question", where), _strings(about, "answer", where)
        if len(questions) != len(answers):
            raise SourceError(f"{where}: {len(questions)} questions, but {len(answers)} answers")
        return list(zip(questions, answers, strict=True))
    name = next((name for name in ("text", "caption") if name in about), None)
    if name is None:
        raise SourceError(f"{where}: no field 'text', nor 'question' and 'answer'")
    return [(text, "") for text in _strings(about, name, where)]


def _strings(about: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = about.get(name)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, str) and text.strip() for text in values):
        raise SourceError(f"{where}: field {name!r} is empty or no text")
    return values
