"""Finds the `DatasetSpec` that a user names: in a file of his own, or as an entry point of an installed package."""

from __future__ import annotations

import functools
import importlib.metadata
import runpy
from pathlib import Path

from gato.data_pipelines.dataset import DatasetSpec
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.own_code import text_of
from gato.tokenizers.errors import suggest

ENTRY_POINTS = "gato.datasets"


def find_dataset(source: str) -> tuple[DatasetSpec, str]:
    """The `DatasetSpec` FILE.py[:NAME], or that of an entry point of `ENTRY_POINTS`; and what it is written as.

    For anything else, a bare path: an empty one, and "".

    Raises:
      SourceError: there is no such file or name, or the user's code fails.
    """
    file, _, name = source.partition(":")
    if file.endswith(".py"):
        return _from_file(Path(file).expanduser(), name)
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if source not in found:
        return DatasetSpec(), ""
    try:
        dataset = found[source].load()
    except Exception as error:
        raise SourceError(f"entry point {source!r} ({found[source].value}): {type(error).__name__}: {error}") from error
    if not isinstance(dataset, DatasetSpec):
        raise SourceError(f"entry point {source!r} is no DatasetSpec but {type(dataset).__name__}")
    return dataset, found[source].value


def words_of(dataset: DatasetSpec) -> tuple[dict[str, object], *tuple[object, ...]]:
    """Everything that decides what an import makes of given data, with the same `repr` in every process.

    First the plain fields, then the transform: the text of the file that defines it, and of the user's own modules that
    this file imports.
    """
    transform, bound = dataset.transform, []
    while isinstance(transform, functools.partial):
        bound.append((transform.args, sorted(transform.keywords.items())))
        transform = transform.func
    plain = {name: getattr(dataset, name) for name in ("name", "format", "options", "leaves", "spec", "metadata")}
    if transform is None:
        return (plain,)
    return plain, bound, getattr(transform, "__qualname__", type(transform).__qualname__), text_of(transform)


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
