"""Where pictures and what is said about them lie: a folder with a list, or WebDataset tars."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.lines import Lines
from gato.data_pipelines.readers.text import decoded, json_line, read_bytes
from gato.data_pipelines.store import first_line

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_BLOCK = 512  # of tar files
Parts = dict[str, tuple[int, int]]  # ending of a member's name -> its offset and size


class Folder:
    """A folder of pictures with a list of their texts. Opening it reads the list and looks at each picture's size.

    Empty lines of the list are no samples.

    Attributes:
      files: the list and the pictures that are there. unreadable: none: a missing picture is a bad line.
    """

    unreadable = ()

    def __init__(self, folder: Path, listed: Path) -> None:
        self._folder = folder
        self._lines = Lines(listed)
        self._numbers = np.array([number for number in range(len(self._lines)) if self._lines.line(number)], np.int64)
        self.files = [listed, *filter(_is_file, {folder / name for name in map(self._name, range(len(self))) if name})]

    def __len__(self) -> int:
        return len(self._numbers)

    def where(self, index: int) -> str:
        return self._lines.where(int(self._numbers[index]))

    def about(self, index: int) -> dict[str, Any]:
        """What the list says."""
        return json_line(self._lines.line(int(self._numbers[index])), self.where(index))

    def picture(self, index: int) -> bytes:
        where, name = self.where(index), self._name(index)
        if not name:
            raise SourceError(f"{where}: no field 'image' with the name of a file")
        file = (self._folder / name).resolve()
        if not file.is_relative_to(self._folder.resolve()):
            raise SourceError(f"{where}: image {name!r} lies outside the folder")
        if not file.exists():
            raise SourceError(f"{where}: image {name!r} is missing")
        return read_bytes(file)

    def _name(self, index: int) -> str:
        """Of the picture; "" where the list does not say it."""
        try:
            about = self.about(index)
        except SourceError:
            return ""
        name = about.get("image", about.get("file_name"))
        return name if isinstance(name, str) else ""


class Tars:
    """WebDataset tars. Opening them reads the headers of all members. A tar that is damaged is one unreadable sample.

    Attributes:
      files: the tars. unreadable: the errors of those that are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.files = [path] if path.is_file() else sorted(path.glob("*.tar"))
        self.unreadable: list[SourceError] = []
        self._samples: list[tuple[Path, str, Parts | SourceError]] = []
        for file in self.files:
            try:
                self._samples += [(file, key, parts) for key, parts in _members(file).items()]
            except SourceError as error:
                self.unreadable.append(error)
                self._samples.append((file, "", error))

    def __len__(self) -> int:
        return len(self._samples)

    def where(self, index: int) -> str:
        file, key, parts = self._samples[index]
        return str(file) if isinstance(parts, SourceError) else f"{file}: sample {key.lstrip('/')!r}"

    def about(self, index: int) -> dict[str, Any]:
        file, _, parts = self._samples[index]
        where = self.where(index)
        if isinstance(parts, SourceError):
            raise parts
        if ".json" in parts:
            return json_line(_bytes(file, parts[".json"]), where)
        for ending in (".txt", ".caption"):
            if ending in parts:
                return {"text": decoded(_bytes(file, parts[ending]), where)}
        raise SourceError(f"{where}: no .txt, .caption or .json beside the picture")

    def picture(self, index: int) -> bytes:
        file, _, parts = self._samples[index]
        if isinstance(parts, SourceError):
            raise parts
        for ending in PICTURES:
            if ending in parts:
                return _bytes(file, parts[ending])
        raise SourceError(f"{self.where(index)}: no picture ({', '.join(PICTURES)})")


def _members(file: Path) -> dict[str, Parts]:
    """Name of each sample of a tar -> its parts. Raises SourceError if the tar is damaged."""
    groups: dict[str, Parts] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isfile():
                    folder, _, base = member.name.rpartition("/")
                    key, _, ending = base.partition(".")
                    groups.setdefault(f"{folder}/{key}", {})[f".{ending.lower()}"] = member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error
    spans = [span for parts in groups.values() for span in parts.values()]
    last = max((offset + -(-size // _BLOCK) * _BLOCK for offset, size in spans), default=0)
    # tarfile takes a damaged header, or none, for the end of the archive; an archive ends with zeros.
    if _bytes(file, (last, _BLOCK)) != bytes(_BLOCK):
        raise SourceError(f"{file}: damaged or cut after {len(groups)} samples; copy it again")
    return groups


def _bytes(file: Path, span: tuple[int, int]) -> bytes:
    with file.open("rb") as opened:
        opened.seek(span[0])
        return opened.read(span[1])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name that is too long; reading it says so
        return False
