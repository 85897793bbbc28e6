"""Pictures with text as documents: one (picture, text) pair in each, or several, as Gato's rows of five have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.text import document
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

# {"image": file} or, of text alone, {}; and what is said about it: {"text": ...} or {"question": ..., "answer": ...}.
Sample = tuple[Mapping[str, Any], list[dict[str, str]]]


class Pairs:
    """Which samples make a document, and what it looks like.

    Args:
      where: of the data, for messages.
      order: int [n], the samples in the order in which they become neighbours.
      count: of samples in a document. The last document is filled up with samples of the first.
    """

    def __init__(self, where: Path, order: np.ndarray, count: int) -> None:
        """Raises SourceError if `count` is no positive whole number."""
        if not isinstance(count, int) or count < 1:
            raise SourceError(f"{where}: option pairs must be a whole number of at least 1, got {count!r}")
        self._order, self._count = order, count

    def __len__(self) -> int:
        """Number of groups of samples: a group of pictures with k texts each is k documents."""
        return -(-len(self._order) // self._count)

    def members(self, index: int) -> list[int]:
        """The samples of a group; each sample is in one group."""
        return [int(self._order[(index * self._count + k) % len(self._order)]) for k in range(self._count)]

    def spec(self, leaves: Mapping[str, LeafSpec]) -> EpisodeSpec:
        """Of documents whose pairs have these leaves."""
        named = [self._named(leaves, place) for place in range(self._count)]
        return EpisodeSpec({name: leaf for pair in named for name, leaf in pair.items()}, {}, "document")

    def documents(self, index: int, samples: Iterable[Sample | GatoError]) -> Iterator[Episode | GatoError]:
        """The documents of one group, after its errors. Good pairs take the places of bad ones a second time."""
        good: list[Sample] = []
        for sample in samples:
            if isinstance(sample, GatoError):
                yield sample
            else:
                good.append(sample)
        for number in range(max((len(texts) for _, texts in good), default=0)):
            leaves: dict[str, Any] = {}
            for place in range(self._count):
                picture, texts = good[place % len(good)]
                leaves |= self._named({**picture, **texts[number % len(texts)]}, place)
            yield document(leaves, f"{index}.{number}")

    def _named(self, leaves: Mapping[str, Any], place: int) -> dict[str, Any]:
        """The leaves of one pair, under names of its own where a document has several."""
        return {name if self._count == 1 else f"{name}_{place + 1}": value for name, value in leaves.items()}
