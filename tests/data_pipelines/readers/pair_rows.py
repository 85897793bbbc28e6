"""Stores of documents with five pairs of picture and text, and the rows that training reads of them."""

from __future__ import annotations

import numpy as np
from synthetic import make_tokenizer, one_group

from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store import Store

SIZE, SIDE = (192, 192), 12
FIVE = {"pairs": 5, "size": SIZE}  # the options of a `DatasetSpec`
PATCHES = SIDE * SIDE


def check_rows(store: Store, words: tuple[str, ...] = ("text",)) -> set[str]:
    """That rows hold whole documents: five times the patches of a picture and the words about it, and then an end.

    Returns:
      the texts that were seen.
    """
    assert list(store.spec.observations) == [f"{name}_{k}" for k in range(1, 6) for name in ("image", *words)]
    tokenizer = make_tokenizer()
    documents = {}
    for number in range(len(store)):
        observations = store.episode(number).observations
        ids = tokenizer.tokenize(observations, {}, store.spec).ids.tobytes()
        documents[ids] = observations
    loader = Loader([SourceConfig(store.path)], tokenizer, 4, 1024, seed=0, threads=0)
    seen = set()
    for _ in range(12):
        batch = one_group([next(loader)])
        for row in np.flatnonzero(batch["segment_ids"].any(axis=1)):
            mine = batch["segment_ids"][row] == 1
            assert not (batch["segment_ids"][row] > 1).any()  # a second document has no room
            observations = documents[batch["ids"][row, mine].tobytes()]
            local = batch["local_position"][row, mine]
            assert local[local >= 0].tolist() == list(range(PATCHES)) * 5
            pixels = batch["patches"][batch["patch_index"][row, mine][local >= 0]]
            for k in range(5):
                image = observations[f"image_{k + 1}"][0]
                patches = image.reshape(SIDE, 16, SIDE, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
                np.testing.assert_array_equal(pixels[k * PATCHES : (k + 1) * PATCHES], patches)
                seen.add(" ".join(observations[f"{word}_{k + 1}"][0] for word in words))
            learned = (batch["target_weight"] > 0) & (batch["target_index"] // 1024 == row)
            places = np.sort(batch["target_index"][learned]) % 1024 + 1
            np.testing.assert_array_equal(places, np.flatnonzero(local < 0))  # text, and nothing of a picture
    return seen


def texts(store: Store) -> list[str]:
    """Of all pairs, in the order of the documents."""
    episodes = [store.episode(k).observations for k in range(len(store))]
    return [observations[f"text_{k}"][0] for observations in episodes for k in range(1, 6)]
