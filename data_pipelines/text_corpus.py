"""Texts for training a tokenizer, from stores with text leaves and from the files that `gato data import` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError, StoreError
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.readers.text import TextReader
from gato.data_pipelines.store import Store


def texts_of(paths: Sequence[Path], progress: bool = False) -> Iterator[str]:
    """Every text once, in the order of the paths; an instruction that repeats through an episode counts once there.

    Args:
      progress: whether to show it on stderr while the texts are read.

    Raises:
      StoreError, SourceError: a path is no store and no text, now; or is damaged, while it is read.
    """
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise SourceError(f"{missing}: no such file or folder")
    opened = [_store(path) if (path / "store.json").exists() else TextReader(path, {}) for path in paths]
    return _texts(opened, progress)


def _store(path: Path) -> Store:
    store = Store(path)
    if not _leaves(store):
        raise StoreError(f"{path}: holds no text to train on; name stores with text leaves, or text files")
    return store


def _leaves(store: Store) -> list[str]:
    return [path for path, leaf in store.spec.observations.items() if leaf.modality == "text"]


def _texts(opened: Sequence[Store | TextReader], progress: bool) -> Iterator[str]:
    with show_progress(sum(map(len, opened)), "reading", progress) as advance:
        for source in opened:
            for index in range(len(source)):
                if isinstance(source, Store):
                    observations = source.episode(index).observations
                    for path in _leaves(source):
                        yield from dict.fromkeys(observations[path])
                else:
                    for document in source.read(index):
                        if isinstance(document, Episode):
                            yield document.observations["text"][0]
                advance(1, source.name)
