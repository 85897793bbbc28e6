"""Plain text documents of the standard library."""

from __future__ import annotations

import itertools

from gato.data_pipelines.episode import check_episode
from gato.data_pipelines.sources.stdlib_text import SPEC, episodes


def test_documents_are_enough_distinct_and_shuffled_by_the_seed():
    everything = list(episodes(1_000_000, seed=0))
    texts = [episode.observations["text"][0] for episode in everything]
    assert sum(map(len, texts)) > 1_500_000
    assert len(set(texts)) == len(texts)
    assert len({episode.metadata["episode_id"] for episode in everything}) == len(texts)
    for episode in everything[:200]:
        check_episode(episode, SPEC, "text")
    few = [episode.observations["text"][0] for episode in episodes(50, seed=0)]
    assert few == texts[:50]
    other = [episode.observations["text"][0] for episode in itertools.islice(episodes(50, seed=1), 50)]
    assert other != few
    assert texts != sorted(texts)
