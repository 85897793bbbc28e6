"""The formats that can be imported, and how each is known by what lies at a path."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import arrays, rlu_raw, text

_LOOKED_AT = 100_000  # files of a folder whose format is not known by its name


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


def _rlu(path: Path) -> bool:
    shards = [path] if path.is_file() else path.glob(rlu_raw.SHARDS) if path.is_dir() else []
    return any(file.match(rlu_raw.SHARDS) and file.is_file() and rlu_raw.is_gzip(file) for file in shards)


def _text(path: Path) -> bool:
    """Nothing but text: of a folder of something else with a README in it, the README would be the whole import."""
    if path.is_file():
        return text.is_text(path)
    found = list(_files(path))
    return bool(found) and all(map(text.is_text, found))


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
    "rlu": Format("rlu_raw", "RluRawReader", _rlu, "RL Unplugged as published: gzip shards NAME-00000-of-00100"),
    "arrays": Format(
        "arrays",
        "ArraysReader",
        lambda path: _holds(*(f"*{suffix}" for suffix in arrays.SUFFIXES))(path) or _ends(*arrays.SUFFIXES)(path),
        "npz or HDF5 files of episodes, one or a folder of them",
    ),
    "image-text": Format(
        "image_text",
        "ImageTextReader",
        lambda path: _holds("captions.jsonl", "metadata.jsonl", "*.tar")(path) or _ends(".tar")(path),
        "pictures with captions or questions: a folder with captions.jsonl, or WebDataset tars",
    ),
    "text": Format("text", "TextReader", _text, "text files, JSONL or parquet"),
}


def detect(path: Path) -> str:
    """The format of what lies at ``path``. Raises SourceError that lists what lies there and what can be read."""
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder, and no data set of this name is installed")
    for name, kind in FORMATS.items():
        if kind.found(path):
            return name
    known = "; ".join(f"{name}: {kind.about}" for name, kind in FORMATS.items())
    raise SourceError(f"{path}: {_seen(path)} is no format that is known by its look. Name one with --format: {known}")


def _files(path: Path) -> list[Path]:
    """Files at or below the path."""
    return [path] if path.is_file() else list(itertools.islice(text.visible_files(path), _LOOKED_AT))


def _seen(path: Path) -> str:
    """What lies there, in words: "12 .h5, 1 .md"."""
    kinds = collections.Counter(file.suffix.lower() or "without a suffix" for file in _files(path))
    most = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))[:8]
    return ", ".join(f"{count} {kind}" for kind, count in most) or "an empty folder"
