"""Finds the reader of a source: by the format that the user names, or by what lies in the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import runpy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import DatasetSpec, Reader
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.rlu_raw import is_gzip
from gato.data_pipelines.store import first_line
from gato.tokenizers.errors import GatoError, suggest
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

ENTRY_POINTS = "gato.datasets"
_READERS = "gato.data_pipelines.readers"


@dataclasses.dataclass(frozen=True)
class Format:
    """module and class of a reader, and what tells the format from the others: a quick look at the path."""

    module: str
    reader: str
    found: Callable[[Path], bool]
    about: str


def _holds(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: path.is_dir() and any(next(path.glob(pattern), None) is not None for pattern in patterns)


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.name.endswith(suffixes)


def _prepared(path: Path, key: str = "") -> bool:
    """Whether a prepared TFDS directory lies at or below the path, with a feature of this name."""
    if not path.is_dir():
        return False
    found = path / "features.json" if (path / "features.json").exists() else next(path.glob("**/features.json"), None)
    return found is not None and f'"{key}"' in found.read_text(errors="replace")


# In the order in which they are tried.
FORMATS = {
    "rlds": Format(
        "rlds",
        "RldsReader",
        lambda path: _prepared(path, "steps"),
        "RLDS episodes in a prepared TFDS directory (features.json)",
    ),
    "lerobot": Format(
        "lerobot",
        "LeRobotReader",
        lambda path: (path / "meta" / "info.json").exists(),
        "LeRobot 2.0, 2.1 and 3.0 (meta/info.json)",
    ),
    "minari": Format(
        "minari",
        "MinariReader",
        lambda path: any((path / inside / "metadata.json").exists() for inside in ("", "data")),
        "Minari, HDF5 or Arrow (data/metadata.json)",
    ),
    "tfds": Format(
        "tfds_documents",
        "TfdsDocumentsReader",
        lambda path: _prepared(path, "features"),
        "texts, or pictures with texts, in a prepared TFDS directory",
    ),
    "rlu": Format(
        "rlu_raw",
        "RluRawReader",
        lambda path: _holds("*-00000-of-*")(path) and is_gzip(next(path.glob("*-00000-of-*"))),
        "RL Unplugged as published: gzip shards NAME-00000-of-00100",
    ),
    "arrays": Format(
        "arrays",
        "ArraysReader",
        lambda path: _holds("*.npz")(path) or _ends(".h5", ".hdf5")(path),
        "npz files, or an HDF5 file with a group for each episode",
    ),
    "image-text": Format(
        "image_text",
        "ImageTextReader",
        lambda path: _holds("captions.jsonl", "metadata.jsonl", "*.tar")(path) or _ends(".tar")(path),
        "pictures with captions or questions: a folder with captions.jsonl, or WebDataset tars",
    ),
    "text": Format(
        "text",
        "TextReader",
        lambda path: path.exists(),  # opening it says what is missing
        "text files, JSONL or parquet",
    ),
}


@dataclasses.dataclass(frozen=True)
class SourceReference:
    """What a user said about a source; small and picklable, so that every importing process opens it itself.

    Attributes:
      source: a path, or the name of a `DatasetSpec`: FILE.py[:NAME], or an entry point of the group ``gato.datasets``.
      path: of the data where the `DatasetSpec` names none.
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
    """An opened source: its reader together with the user's `DatasetSpec`."""

    reader: Reader
    dataset: DatasetSpec
    name: str
    spec: EpisodeSpec
    metadata: Mapping[str, Any]
    jpeg: tuple[str, ...]
    identity: str
    format: str

    def read(self, index: int) -> Iterator[Episode]:
        """The episodes of one record, transformed. Raises GatoError with the place."""
        episodes = iter(self.reader.read(index))
        while True:
            with _named(f"{self.name}: record {index}"):
                episode = next(episodes, None)
            if episode is None:
                return
            transformed: Episode | None = episode
            if self.dataset.transform is not None:
                try:
                    transformed = self.dataset.transform(episode)
                except GatoError:
                    raise
                except Exception as error:
                    raise SourceError(
                        f"{self.name}: record {index}: transform failed: {type(error).__name__}: {error} "
                        "(GATO_DEBUG=1 shows where)"
                    ) from error
            if transformed is not None:
                check_ranges(transformed, self.spec, f"{self.name}: record {index}")
                yield transformed


def open_source(reference: SourceReference) -> OpenSource:
    """Opens the data that a user named.

    Raises:
      SourceError: nothing is there, no format fits, or the data need a word from the user.
    """
    dataset, written = _dataset(reference)
    location = reference.path or dataset.source or ("" if written else reference.source)
    if not location:
        raise SourceError(f"{reference.source}: the DatasetSpec has no source; give the folder: --path FOLDER")
    path = Path(location).expanduser()
    name = reference.format or dataset.format or detect(path)
    if name not in FORMATS:
        raise SourceError(f"no format {name!r}; {suggest(name, FORMATS)}")
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    leaves = {**dataset.leaves}
    for leaf, count in reference.values:
        leaves[leaf] = LeafSpec("discrete", _shape_of(leaf, leaves), values=count)
    kind = FORMATS[name]
    make = getattr(importlib.import_module(f"{_READERS}.{kind.module}"), kind.reader)
    with _named(str(path)):
        reader: Reader = make(path, leaves, **dataset.options)
    words = (reader.identity, written, reference.values, name, repr(dataset.options))
    return OpenSource(
        reader=reader,
        dataset=dataset,
        name=reference.name or dataset.name or reader.name,
        spec=dataset.spec or reader.spec,
        metadata={**reader.metadata, **dataset.metadata},
        jpeg=tuple(path for path in reader.jpeg if path in (dataset.spec or reader.spec).observations),
        identity=hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest(),
        format=name,
    )


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Damage can look like anything to the libraries below; what no reader foresaw still gets its place."""
    try:
        yield
    except GatoError:
        raise
    except Exception as error:
        what = first_line(error)
        raise SourceError(
            f"{where}: cannot be read: {type(error).__name__}: {what} (GATO_DEBUG=1 shows where)"
        ) from error


def detect(path: Path) -> str:
    """The format of what lies at ``path``. Raises SourceError that lists what can be read."""
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder, and no data set of this name is installed")
    for name, kind in FORMATS.items():
        if kind.found(path):
            return name
    known = "; ".join(f"{name}: {kind.about}" for name, kind in FORMATS.items())
    raise SourceError(f"{path}: holds no format that can be read ({known}). If it does, name it with --format")


def check_ranges(episode: Episode, spec: EpisodeSpec, where: str) -> None:
    """Raises SourceError for a value outside the range that its leaf declares (beyond rounding to float32)."""
    for group, leaves, values in (
        ("observations", spec.observations, episode.observations),
        ("actions", spec.actions, episode.actions),
    ):
        for path, leaf in leaves.items():
            if leaf.modality != "continuous" or leaf.low is None or path not in values:
                continue
            low, high = (np.reshape(np.broadcast_to(bound, leaf.size), leaf.shape) for bound in (leaf.low, leaf.high))
            slack = 1e-5 * (high - low)
            bad = (values[path] < low - slack) | (values[path] > high + slack)
            if np.any(bad):
                step = int(np.argwhere(bad)[0][0])
                value = np.asarray(values[path])[bad].flat[0]
                raise SourceError(
                    f"{where}: {group}.{path}: step {step}: {value:g} outside the range {leaf.low}..{leaf.high}; "
                    "declare a wider range in a DatasetSpec, or skip such episodes with --bad skip"
                )


def _shape_of(leaf: str, leaves: Mapping[str, LeafSpec | None]) -> tuple[int, ...]:
    known = leaves.get(leaf)
    return known.shape if known is not None else ()


def _dataset(reference: SourceReference) -> tuple[DatasetSpec, str]:
    """The `DatasetSpec` and what it was written as; an empty one for a bare path."""
    file, _, name = reference.source.partition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), name)
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if reference.source in found:
        dataset = found[reference.source].load()
        if not isinstance(dataset, DatasetSpec):
            raise SourceError(f"entry point {reference.source!r} is no DatasetSpec but {type(dataset).__name__}")
        return dataset, f"{found[reference.source].value}"
    return DatasetSpec(), ""


def _from_file(file: Path, name: str) -> tuple[DatasetSpec, str]:
    if not file.exists():
        raise SourceError(f"{file}: no such file")
    try:
        values = runpy.run_path(str(file))
    except Exception as error:
        raise SourceError(f"{file}: {type(error).__name__}: {error}") from error
    specs = {key: value for key, value in values.items() if isinstance(value, DatasetSpec)}
    if not specs or (name and name not in specs):
        wanted = f"has no DatasetSpec called {name!r}; {suggest(name, specs)}" if specs else "defines no DatasetSpec"
        raise SourceError(f"{file}: {wanted}")
    if not name and len(specs) > 1:
        raise SourceError(f"{file}: defines {', '.join(specs)}; choose one: {file}:NAME")
    return specs[name or next(iter(specs))], file.read_text()
