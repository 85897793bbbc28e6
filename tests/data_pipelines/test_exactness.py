"""Promises that training stands on: exact resumption on other hosts, refusals, and nothing lost, repeated or mixed."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import (
    CAPTIONS,
    MISSIONS,
    TEXT,
    VECTORS,
    assert_same_batch,
    captions_document,
    make_tokenizer,
    missions_episode,
    one_group,
    sentence,
    vectors_episode,
    write_store,
)

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import ResumeError, StoreError
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig, open_sources
from gato.data_pipelines.rows import BEGIN, END, EPISODE, PROMPT_BEGIN, PROMPT_END, SOURCE, Rows
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer, train
from gato.tokenizers.vocabulary import Vocabulary

LENGTH, ROWS = 128, 8
PER_TOKEN = ("ids", "loss_weight", "local_position", "segment_ids", "positions", "kinds", "source", "patch_intervals")
PER_TARGET = ("target_index", "target_ids", "target_weight", "target_kind", "target_source")


def configs(stores: dict[str, Path], **changes) -> list[SourceConfig]:
    return [SourceConfig(path, expert_filter=None, held_out_episodes=2, **changes) for path in stores.values()]


def open_hosts(stores: dict[str, Path], hosts: int) -> list[Loader]:
    """A group for each host."""
    options = {"groups": hosts, "threads": 0}
    return [
        Loader(configs(stores), make_tokenizer(), ROWS, LENGTH, 0, hosted=[host], **options) for host in range(hosts)
    ]


def global_batch(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The batch of all hosts without its padding, each token with the pixels of its own patch."""
    joined = one_group(parts, [[host] for host in range(len(parts))])
    real = joined["target_weight"] > 0
    batch = {name: joined[name] for name in PER_TOKEN} | {name: joined[name][real] for name in PER_TARGET}
    index = joined["patch_index"]
    return batch | {"has_patch": index >= 0, "pixels": joined["patches"][index[index >= 0]]}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_moves_between_host_counts_sees_the_same_batches(stores, seed):
    """1 -> 2 -> 4 -> 2 -> 1 hosts, interrupted at random steps, the state having been through JSON each time."""
    legs = np.random.default_rng(seed).integers(1, 9, 5).tolist()
    [whole] = open_hosts(stores, 1)
    expected = [global_batch([next(whole)]) for _ in range(sum(legs))]
    state: str | None = None
    step = 0
    for hosts, steps in zip((1, 2, 4, 2, 1), legs, strict=True):
        loaders = open_hosts(stores, hosts)
        if state is not None:
            for loader in loaders:
                loader.restore(json.loads(state))
        for _ in range(steps):
            assert_same_batch(global_batch([next(loader) for loader in loaders]), expected[step])
            step += 1
        states = {json.dumps(loader.state(), sort_keys=True) for loader in loaders}
        assert len(states) == 1  # every host would save the same
        state = states.pop()
    assert json.loads(state)["next_batch"] == sum(legs)


def test_a_run_refuses_other_weights_filters_and_text_models(stores):
    state = json.loads(json.dumps(open_hosts(stores, 1)[0].state()))

    def refused(words: str, tokenizer: SequenceTokenizer | None = None, **changes) -> None:
        other = configs(stores)
        other[0] = dataclasses.replace(other[0], **changes)
        loader = Loader(other, tokenizer or make_tokenizer(), ROWS, LENGTH, 0, threads=0)
        with pytest.raises(ResumeError, match=words) as error:
            loader.restore(state)
        assert "\n" not in str(error.value)

    refused(r"sources\.vectors\.weight: 0\.1666\d* -> 0\.2857\d*", weight=2.0)
    refused(r"sources\.vectors\.expert_filter: null -> 0\.5", expert_filter=0.5)
    refused(r"sources\.vectors\.held_out_episodes: 2 -> 3", held_out_episodes=3)
    refused(r"sources\.vectors\.loss_weight: 1\.0 -> 2\.0", loss_weight=2.0)
    refused(r"sources\.vectors\.window_timesteps: null -> 3", window_timesteps=3)
    refused(r"sources\.vectors\.prompt_probability: 0\.25 -> 0\.5", prompt_probability=0.5)
    words = (f"number {k} of the {'round' if k % 2 else 'square'} table {k * 37}" for k in range(3000))
    text = TextTokenizer(train(words, 1100))
    other = SequenceTokenizer(Vocabulary(text.size), text, Layout())
    refused(r'tokenizer\.text: "[0-9a-f]{16}" -> "[0-9a-f]{16}".*tokenizer\.vocabulary', other)


def test_a_run_refuses_other_files(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [vectors_episode(rng, k, 9) for k in range(6)]
    path = write_store(tmp_path / "s", "s", VECTORS, episodes)
    state = json.loads(json.dumps(open_hosts({"s": path}, 1)[0].state()))
    episodes[2].observations["hand"][4, 1] += 1e-3
    shutil.rmtree(path)
    write_store(path, "s", VECTORS, episodes)
    with pytest.raises(ResumeError, match=r'sources\.s\.data: "[0-9a-f]{32}" -> "[0-9a-f]{32}"'):
        open_hosts({"s": path}, 1)[0].restore(state)
    # A file that was changed after it was written does not even open, or is not read.
    shard = path / "data-00000.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="data-00000"):
        open_hosts({"s": path}, 1)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 4
    shard.write_bytes(damaged)
    with pytest.raises(StoreError, match="data-00000"):
        take_all(open_hosts({"s": path}, 1)[0])


def take_all(loader: Loader) -> None:
    for _ in range(20):
        next(loader)


# Lengths of episodes in timesteps, and of documents in words: many short ones, a few long ones.
LENGTHS = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 150)), min_size=1, max_size=12)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A mixture of four kinds of sources with episodes of drawn lengths."""

    vectors: list[int]
    missions: list[int]
    text: list[int]
    captions: int
    window: int | None
    prompts: float
    weights: tuple[float, ...]


MIXTURES = st.builds(
    Drawn,
    LENGTHS,
    LENGTHS,
    LENGTHS,
    st.integers(1, 30),
    st.sampled_from([None, 1, 4]),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.tuples(*[st.floats(0.1, 10)] * 4),
)


def write_mixture(drawn: Drawn, folder: Path) -> list[SourceConfig]:
    rng = np.random.default_rng(0)
    documents = [Episode({"text": [sentence(rng, words)]}, {}, np.zeros(1, np.float32)) for words in drawn.text]
    missions = [missions_episode(rng, k, steps, changing=k % 2 == 0) for k, steps in enumerate(drawn.missions)]
    for number, episode in enumerate(missions):
        episode.metadata["agent"] = str(number // 3)  # some are alone, and nobody can prompt them
    written = {
        "vectors": (VECTORS, [vectors_episode(rng, k, steps) for k, steps in enumerate(drawn.vectors)]),
        "missions": (MISSIONS, missions),
        "text": (TEXT, documents),
        "captions": (CAPTIONS, [captions_document(rng, k) for k in range(drawn.captions)]),
    }
    return [
        SourceConfig(
            write_store(folder / name, name, spec, episodes),
            weight,
            window_timesteps=drawn.window if spec.kind == "control" else None,
            prompt_probability=drawn.prompts,
            expert_filter=None,
        )
        for (name, (spec, episodes)), weight in zip(written.items(), drawn.weights, strict=True)
    ]


@given(MIXTURES, st.integers(0, 2**31 - 1))
@settings(max_examples=12)
def test_an_epoch_holds_every_document_once_and_every_episode_by_its_length(drawn, seed):
    """Over any number of blocks: each token of each source was seen e or e + 1 times, in the e-th epoch of the source;
    so a document or pair is there once an epoch, and an episode of n tokens has n tokens of it."""
    with tempfile.TemporaryDirectory() as folder:
        sources = open_sources(write_mixture(drawn, Path(folder)), make_tokenizer(), LENGTH, seed)
        rows = Rows(sources, LENGTH, seed)
        table = np.concatenate([rows.block(number).segments for number in range(2)])
    used = table[:, END] - table[:, BEGIN] + table[:, PROMPT_END] - table[:, PROMPT_BEGIN]
    assert used.max() <= LENGTH
    for number, source in enumerate(sources):
        windows = table[table[:, SOURCE] == number]
        epochs = (windows[:, END] - windows[:, BEGIN]).sum() // source.index.totals.sum()
        for episode, total in enumerate(source.index.totals.tolist()):
            mine = windows[windows[:, EPISODE] == episode]
            seen = np.zeros(total + 1, int)
            np.add.at(seen, mine[:, BEGIN], 1)
            np.add.at(seen, mine[:, END], -1)
            times = np.cumsum(seen)[:-1]
            assert epochs <= times.min()
            assert times.max() <= epochs + 1
        if source.name == "captions":  # a pair is never cut
            assert (windows[:, BEGIN] == 0).all()
            np.testing.assert_array_equal(windows[:, END], source.index.totals[windows[:, EPISODE]])


@given(MIXTURES, st.integers(0, 2**31 - 1), st.integers(0, 500))
@settings(max_examples=12)
def test_packed_rows_never_mix_segments(drawn, seed, number):
    """A segment is one stretch of tokens of one source, prompt and window, that counts from 0; a target lies in the
    segment of the token that predicts it."""
    with tempfile.TemporaryDirectory() as folder:
        loader = Loader(write_mixture(drawn, Path(folder)), make_tokenizer(), ROWS, LENGTH, seed, threads=0)
        batch = one_group([loader.batch(number)])
        table, row_of = loader.rows.segments(number * ROWS, (number + 1) * ROWS)
        whole = {
            (source, episode): tokens_of(loader, source, episode)
            for source, episode in {(int(s), int(e)) for s, e in table[:, [SOURCE, EPISODE]]}
        }
    lengths = table[:, END] - table[:, BEGIN] + table[:, PROMPT_END] - table[:, PROMPT_BEGIN]
    in_row: collections.Counter[int] = collections.Counter()
    for segment, row, length in zip(table, row_of.tolist(), lengths.tolist(), strict=True):
        in_row[row] += 1
        mine = np.flatnonzero(batch["segment_ids"][row] == in_row[row])
        assert mine.tolist() == list(range(mine[0], mine[0] + length))
        assert batch["positions"][row, mine].tolist() == list(range(length))
        assert set(batch["source"][row, mine].tolist()) == {int(segment[SOURCE])}
        window = mine[length - (segment[END] - segment[BEGIN]) :]
        expected = whole[int(segment[SOURCE]), int(segment[EPISODE])][segment[BEGIN] : segment[END]]
        np.testing.assert_array_equal(batch["ids"][row, window], expected)
    for row in range(ROWS):
        ids = batch["segment_ids"][row]
        assert [key for key, _ in itertools.groupby(ids)] == [
            *range(1, in_row[row] + 1),
            *([0] if ids[-1] == 0 else []),
        ]
    real = batch["target_weight"] > 0
    predicting = batch["target_index"][real]
    flat = batch["segment_ids"].reshape(-1)
    np.testing.assert_array_equal(predicting // LENGTH, (predicting + 1) // LENGTH)
    np.testing.assert_array_equal(flat[predicting], flat[predicting + 1])
    assert (flat[predicting] > 0).all()
    np.testing.assert_array_equal(batch["ids"].reshape(-1)[predicting + 1], batch["target_ids"][real])


def tokens_of(loader: Loader, source: int, episode: int) -> np.ndarray:
    """The ids of a whole episode, tokenized by itself."""
    store = loader.sources[source].store
    stored = store.episode(episode)
    return make_tokenizer().tokenize(stored.observations, stored.actions, store.spec).ids
