"""Texts for training a tokenizer, from stores with text leaves and from the files that `gato data import` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gato.data_pipelines.readers.text import TextReader
from gato.data_pipelines.store import Store


def texts_of(paths: Sequence[Path]) -> Iterator[str]:
    """Every text once, in the order of the paths; an instruction that repeats through an episode counts once there.

    Raises:
      StoreError, SourceError: a path is no store and no text.
    """
    for path in paths:
        if (path / "store.json").exists():
            yield from _of_store(Store(path))
        else:
            reader = TextReader(path, {})
            for index in range(len(reader)):
                for document in reader.read(index):
                    yield document.observations["text"][0]


def _of_store(store: Store) -> Iterator[str]:
    leaves = [path for path, leaf in store.spec.observations.items() if leaf.modality == "text"]
    for number in range(len(store)):
        episode = store.episode(number)
        for path in leaves:
            yield from dict.fromkeys(episode.observations[path])
