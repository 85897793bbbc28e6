"""Plain text: the standard library's docstrings and help topics, one document each, in a shuffled order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gato.data_pipelines.episode import Episode
from gato.tokenizers.corpus import stdlib_documents
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

SPEC = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")


def episodes(count: int, seed: int) -> Iterator[Episode]:
    """At most ``count`` documents (`SPEC`), in an order drawn from ``seed``; fewer where Python brings fewer."""
    texts = stdlib_documents()
    for index, chosen in enumerate(np.random.default_rng(seed).permutation(len(texts))[:count]):
        metadata = {"episode_id": f"{index:06d}"}
        yield Episode({"text": [texts[chosen]]}, {}, np.zeros(1, np.float32), metadata=metadata)
