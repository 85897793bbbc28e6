"""Opens a source: the reader of its format together with what the user says about it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gato.data_pipelines.dataset import DatasetSpec, GivenLeaf, Reader
from gato.data_pipelines.episode import Episode, check_episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.ranges import check_ranges
from gato.data_pipelines.readers import pictures
from gato.data_pipelines.readers.formats import FORMATS, detect
from gato.data_pipelines.readers.named import find_dataset, words_of
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import GatoError, suggest
from gato.tokenizers.spec import EpisodeSpec

_READERS = "gato.data_pipelines.readers"
_PROBED = 100  # records of which one shows what a transform makes of image files
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class SourceReference:
    """What a user said about a source; small and picklable, so that every importing process opens it itself.

    Attributes:
      source: a path, or the name of a `DatasetSpec`: FILE.py[:NAME], or an entry point of the group ``gato.datasets``.
      path: of the data that a `DatasetSpec` describes, in place of its own `source`.
      format: name in `FORMATS`; "": what the data look like.
      values: ("actions.action", 18): the number of values of integers whose format does not say it.
      name: of the source; "": the data set's own.
    """

    source: str
    path: str = ""
    format: str = ""
    values: tuple[tuple[str, int], ...] = ()
    name: str = ""


@dataclasses.dataclass(frozen=True)
class OpenSource:
    """An opened source: its reader together with the user's `DatasetSpec`.

    Attributes:
      identity: a hash of everything that decides what an import makes of it.
      identities: what of it -> hash of that part, to say what differs; the data's holds the options of the reader, too.
    """

    reader: Reader
    dataset: DatasetSpec
    name: str
    spec: EpisodeSpec
    metadata: Mapping[str, Any]
    jpeg: tuple[str, ...]
    identity: str
    identities: Mapping[str, str]
    format: str

    def read(self, index: int) -> Iterator[Episode | GatoError]:
        """The episodes of one record, transformed and checked; in place of a bad one its error, which names the place.

        After an error the next episodes of the record follow where the format allows it.
        """
        found, number = iter(self.reader.read(index)), 0
        while True:
            where = self.reader.where(index, number)
            try:
                with _named(where, "cannot be read"):
                    episode = next(found, None)
            except GatoError as error:
                yield error  # a generator that raised has nothing more to give
                return
            if episode is None:
                return
            if not isinstance(episode, GatoError):
                try:
                    episode = self._finished(episode, where)
                except GatoError as error:
                    episode = error
            if episode is not None:
                yield episode
            number += 1

    def _finished(self, episode: Episode, where: str) -> Episode | None:
        """The episode as the store takes it; None: the transform leaves it out."""
        made = _transformed(episode, self.dataset, where)
        if made is None:
            return None
        with _named(where, "does not match its spec"):
            made = self._decoded(made, where)
            check_episode(made, self.spec, where)
            check_ranges(made, self.spec, where)
        return made

    def _decoded(self, episode: Episode, where: str) -> Episode:
        """The episode with arrays in place of image files in leaves that are not kept as JPEG."""
        observations = dict(episode.observations)
        for path, leaf in self.spec.observations.items():
            if leaf.modality == "image" and path not in self.jpeg and _are_files(observations.get(path)):
                observations[path] = pictures.images(observations[path], leaf, f"{where}: observations.{path}")
        return dataclasses.replace(episode, observations=observations)


def open_source(reference: SourceReference) -> OpenSource:
    """Opens the data that a user named.

    Raises:
      SourceError: nothing is there, no format fits, or the data need a word from the user.
    """
    dataset, written = find_dataset(reference.source)
    if reference.path and not written:
        raise SourceError(
            f"--path {reference.path}: goes with a DatasetSpec (FILE.py[:NAME], or the name of an installed one), and "
            f"{reference.source!r} is none; name the data once"
        )
    location = reference.path or dataset.source or ("" if written else reference.source)
    if not location:
        raise SourceError(f"{reference.source}: the DatasetSpec has no source; give the folder: --path FOLDER")
    path = Path(location).expanduser()
    with _named(str(path), "cannot be read"):
        name = reference.format or dataset.format or detect(path)
        if name not in FORMATS:
            raise SourceError(f"no format {name!r}; {suggest(name, FORMATS)}")
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder")
        leaves: dict[str, GivenLeaf] = {**dataset.leaves, **dict(reference.values)}
        kind = FORMATS[name]
        make = getattr(importlib.import_module(f"{_READERS}.{kind.module}"), kind.reader)
        reader: Reader = make(path, leaves, **dataset.options)
    spec = dataset.spec or reader.spec
    metadata = {**reader.metadata, **dataset.metadata}
    called = reference.name or dataset.name or reader.name
    declared, *code = words_of(dataset)
    words = (reader.identity, written, (declared, *code), reference.values, name, called, spec, metadata)
    parts = {
        "name": called,
        "format or options": (reference.values, name, {**declared, "name": ""}),
        "code of your own": (written, code),
        "data files (names, sizes or times)": reader.identity,
    }
    return OpenSource(
        reader=reader,
        dataset=dataset,
        name=called,
        spec=spec,
        metadata=metadata,
        jpeg=_jpeg_leaves(reader, dataset, spec),
        identity=_hash(words),
        identities={part: _hash(words) for part, words in parts.items()},
        format=name,
    )


def _hash(words: object) -> str:
    return hashlib.blake2b(_ADDRESS.sub("", repr(words)).encode(), digest_size=16).hexdigest()


def _jpeg_leaves(reader: Reader, dataset: DatasetSpec, spec: EpisodeSpec) -> tuple[str, ...]:
    """The image leaves that are kept as JPEG: the reader's. A transform may have renamed them: one episode shows it."""
    images = [path for path, leaf in spec.observations.items() if leaf.modality == "image"]
    if dataset.transform is None or not reader.jpeg:
        return tuple(path for path in images if path in reader.jpeg)
    for index in range(min(len(reader), _PROBED)):
        with contextlib.suppress(Exception):  # reading it reports it, with its place
            for episode in reader.read(index):
                made = None if isinstance(episode, GatoError) else _transformed(episode, dataset, "")
                if made is not None:
                    return tuple(path for path in images if _are_files(made.observations.get(path)))
    return ()


def _transformed(episode: Episode, dataset: DatasetSpec, where: str) -> Episode | None:
    if dataset.transform is None:
        return episode
    try:
        made = dataset.transform(episode)
    except Exception as error:
        raise SourceError(
            f"{where}: transform failed: {type(error).__name__}: {first_line(error)} (GATO_DEBUG=1 shows where)"
        ) from error
    if made is not None and not isinstance(made, Episode):
        raise SourceError(f"{where}: transform gave {type(made).__name__} instead of an Episode or None")
    return made


def _are_files(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and bool(values) and all(isinstance(value, bytes) for value in values)


@contextlib.contextmanager
def _named(where: str, what: str) -> Iterator[None]:
    """Damage can look like anything to the libraries below; what no reader foresaw still gets its place."""
    try:
        yield
    except (GatoError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(
            f"{where}: {what}: {type(error).__name__}: {first_line(error)} (GATO_DEBUG=1 shows where)"
        ) from error
