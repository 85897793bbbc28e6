"""Batches: what stands in them, cached or not."""

import dataclasses
import json

import numpy as np
import pytest
from loaders import LENGTH, ROWS, configs, open_loader
from synthetic import MISSIONS, assert_same_batch, make_tokenizer, missions_episode, one_group, write_store

from gato.data_pipelines import loader as loader_module
from gato.data_pipelines.episode import Episode, EpisodeSpec
from gato.data_pipelines.errors import MixtureError, ResumeError
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.rows import BEGIN, END, EPISODE, PROMPT_BEGIN, PROMPT_END, PROMPT_EPISODE, SOURCE
from gato.data_pipelines.token_cache import distinct_patches
from gato.tokenizers.layout import KINDS, Layout
from gato.tokenizers.spec import LeafSpec


@pytest.mark.parametrize("cache_bytes", [0, 50_000, 1 << 30])
def test_a_batch_is_its_segments_tokenized_one_by_one(stores, cache_bytes):
    """Against a plain assembly; with everything cached, with some, and with ranges read straight from the stores."""
    loader, tokenizer = open_loader(stores, cache_bytes=cache_bytes), make_tokenizer()
    prompted = patches_seen = 0
    for number in (0, 1, 5):
        batch = one_group([loader.batch(number)])
        table, row_of = loader.rows.segments(number * ROWS, (number + 1) * ROWS)
        used = np.zeros((ROWS, LENGTH), bool)
        targets = []
        column, last_row, segment_number = 0, -1, 0
        for segment, row in zip(table, row_of, strict=True):
            if row != last_row:
                column, last_row, segment_number = 0, row, 0
            segment_number += 1
            position = 0
            prompted += segment[PROMPT_EPISODE] >= 0
            for episode, begin, end in (
                segment[[PROMPT_EPISODE, PROMPT_BEGIN, PROMPT_END]],
                segment[[EPISODE, BEGIN, END]],
            ):
                if episode < 0:
                    continue
                source = loader.sources[segment[SOURCE]]
                stored = source.store.episode(int(episode))
                sequence = tokenizer.tokenize(stored.observations, stored.actions, source.store.spec)
                for k in range(begin, end):
                    at = row, column
                    used[at] = True
                    assert batch["ids"][at] == sequence.ids[k]
                    assert batch["loss_weight"][at] == sequence.loss_weight[k]
                    assert batch["local_position"][at] == sequence.local_position[k]
                    assert batch["kinds"][at] == sequence.kinds[k]
                    assert batch["segment_ids"][at] == segment_number
                    assert batch["positions"][at] == position
                    assert batch["source"][at] == segment[SOURCE]
                    patch = sequence.patch_index[k]
                    assert (batch["patch_index"][at] >= 0) == (patch >= 0)
                    if patch >= 0:
                        patches_seen += 1
                        np.testing.assert_array_equal(
                            batch["patches"][batch["patch_index"][at]], sequence.patches[patch]
                        )
                        np.testing.assert_array_equal(batch["patch_intervals"][at], sequence.patch_intervals[patch])
                    if position and sequence.loss_weight[k]:
                        targets.append((row * LENGTH + column - 1, sequence.ids[k], sequence.kinds[k], segment[SOURCE]))
                    column += 1
                    position += 1
        assert (batch["segment_ids"][~used] == 0).all()
        assert (batch["source"][~used] == -1).all()
        assert (batch["loss_weight"][~used] == 0).all()
        assert (batch["patch_index"][~used] == -1).all()
        assert (batch["ids"][~used] == tokenizer.vocabulary.padding).all()
        n = len(targets)
        names = ("target_index", "target_ids", "target_kind", "target_source")
        assert list(zip(*(batch[name][:n].tolist() for name in names), strict=True)) == targets
        assert (batch["target_weight"][:n] == 1).all()
        assert (batch["target_weight"][n:] == 0).all()
        assert (batch["target_source"][n:] == -1).all()
    assert prompted > 5
    assert patches_seen > 50


def test_equal_patches_are_there_once(stores):
    batch = one_group([open_loader(stores).batch(0)])
    used = int(batch["patch_index"].max()) + 1
    assert len(np.unique(batch["patches"][:used].reshape(used, -1), axis=0)) == used
    assert used < (batch["patch_index"] >= 0).sum()
    assert (batch["patches"][used:] == 0).all()


def test_patches_of_one_key_are_told_apart_by_their_other_pixels(tmp_path):
    """A flat background gives many different patches the same middle; a batch must not mix them up."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(6):
        pictures = np.zeros((10, 32, 32, 3), np.uint8)
        pictures[:, ::16, ::16] = rng.integers(3, size=(10, 2, 2, 3))  # one pixel, in each patch's corner
        actions = {"action": rng.uniform(-1, 1, (10, 2)).astype(np.float32)}
        episodes.append(Episode({"image": pictures}, actions, np.zeros(10, np.float32)))
    spec = EpisodeSpec.of({"image": LeafSpec("image", (32, 32, 3))}, LeafSpec("continuous", (2,), low=-1.0, high=1.0))
    path = write_store(tmp_path / "flat", "flat", spec, episodes)
    for cache_bytes in (0, 1 << 30):
        loader = Loader(
            [SourceConfig(path, expert_filter=None, prompt_probability=0.0)],
            make_tokenizer(),
            4,
            64,
            0,
            threads=0,
            cache_bytes=cache_bytes,
        )
        batch = one_group([loader.batch(0)])
        used = int(batch["patch_index"].max()) + 1
        assert len(np.unique(batch["patches"][:used].reshape(used, -1), axis=0)) == used > 5
        table, row_of = loader.rows.segments(0, 4)
        expected = []
        for segment in table[row_of == 0]:
            tokens = make_tokenizer().tokenize(
                episodes[segment[EPISODE]].observations, episodes[segment[EPISODE]].actions, spec
            )
            index = tokens.patch_index[segment[BEGIN] : segment[END]]
            expected += list(tokens.patches[index[index >= 0]])
        shown = batch["patch_index"][0]
        np.testing.assert_array_equal(batch["patches"][shown[shown >= 0]], np.stack(expected))


def test_distinct_patches():
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 3, (30, 1, 1, 1)).astype(np.uint8) * np.ones((16, 16, 3), np.uint8)
    distinct, index = distinct_patches(patches, 10)
    assert len(distinct.pixels) == len(set(distinct.hashes.tolist())) == 3
    np.testing.assert_array_equal(distinct.pixels[index], patches)


def test_static_sizes_grow_in_powers_of_two(stores, monkeypatch):
    loader = open_loader(stores)
    shapes = {loader.batch(number)["target_ids"].shape for number in range(30)}
    assert shapes == {(1, loader.probe().targets)}
    small = open_loader(stores)
    monkeypatch.setattr(small, "_capacities", loader_module.Capacities(4, 100))
    batch = one_group([small.batch(0)])
    assert len(batch["patches"]) in {4 * 2**k for k in range(8)}
    assert len(batch["target_ids"]) in {100 * 2**k for k in range(8)}
    expected = one_group([loader.batch(0)])
    real = expected["target_weight"] > 0
    np.testing.assert_array_equal(batch["target_ids"][: real.sum()], expected["target_ids"][real])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_recipes_add_derived_tokens_and_weigh_episodes(stores, cache_bytes):
    """A return-to-go, known only from the whole episode, stands before each observation."""
    leaf = LeafSpec("continuous", low=0.0, high=100.0)
    layout = Layout(("to_go", "observation", "separator", "action"), {"action": 1.0}, {"to_go": leaf})
    loader = open_loader(
        {"vectors": stores["vectors"]},
        layout,
        derive=lambda episode: {"to_go": np.arange(len(episode), 0, -1).astype(np.float32)},
        episode_weight=lambda episode: 1.0 + episode.metadata["episode_id"],
        cache_bytes=cache_bytes,
    )
    tokenizer = make_tokenizer(layout)
    source = loader.sources[0]
    batch = loader.batch(0)
    derived = batch["kinds"] == KINDS.index("derived")
    rows, columns = np.nonzero(derived)
    assert len(rows) > 20
    for row, column in zip(rows, columns, strict=True):
        episode, step = batch["ids"][row, column + 1 : column + 3]  # the clock leaf
        stored = source.store.episode(int(episode))
        to_go = {"to_go": np.arange(len(stored), 0, -1).astype(np.float32)}
        sequence = tokenizer.tokenize(stored.observations, stored.actions, source.store.spec, to_go)
        assert batch["ids"][row, column] == sequence.ids[sequence.timestep_starts[step]]
        actions = slice(column + 7, column + 9)
        assert (batch["loss_weight"][row, actions] == 1 + episode).all()


def test_bad_sizes_are_refused(stores):
    with pytest.raises(MixtureError, match="batch_size=8 must be a positive multiple of groups=3"):
        open_loader(stores, groups=3)
    with pytest.raises(MixtureError, match="length=1"):
        Loader(configs(stores), make_tokenizer(), 8, 1, 0)
    for wrong in ({"threads": -1}, {"workers": -1}):
        with pytest.raises(MixtureError, match="neither can be negative"):
            open_loader(stores, **wrong)


def test_a_batch_larger_than_a_source_works(tmp_path):
    path = write_store(tmp_path / "s", "s", MISSIONS, [missions_episode(np.random.default_rng(0), 0, 3)])
    loader = Loader([SourceConfig(path)], make_tokenizer(), 64, 64, 0, threads=0)
    batch = next(loader)
    assert (batch["segment_ids"] > 0).any(axis=1).sum() > 60  # one episode a row; a few rows are spare


def test_every_document_of_a_text_source_is_seen(stores):
    loader = open_loader({"text": stores["text"]})
    train = set(loader.sources[0].episodes["train"].tolist())
    total = int(loader.sources[0].index.totals[list(train)].sum())
    seen: set[int] = set()
    for number in range(total // (ROWS * LENGTH) + 3):
        seen |= set(loader.rows.segments(number * ROWS, (number + 1) * ROWS)[0][:, EPISODE].tolist())
    assert seen <= train
    everything, _ = loader.rows.segments(0, loader.rows.rows_per_block)
    assert set(everything[:, EPISODE].tolist()) == train


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_source_s_loss_weight_multiplies_its_targets_and_nothing_else(stores, cache_bytes):
    plain = Loader(configs(stores), make_tokenizer(), ROWS, LENGTH, 0, threads=0, cache_bytes=cache_bytes)
    weights = {"vectors": 1.0, "missions": 2.5}
    heavier = [
        dataclasses.replace(c, loss_weight=weights.get(name, 1.0))
        for c, name in zip(configs(stores), stores, strict=True)
    ]
    weighed = Loader(heavier, make_tokenizer(), ROWS, LENGTH, 0, threads=0, cache_bytes=cache_bytes)
    number = [source.name for source in plain.sources].index("missions")
    one, other = plain.batch(0), weighed.batch(0)
    factor = np.where(one["target_source"] == number, np.float32(2.5), np.float32(1))
    assert (factor > 1).any()
    np.testing.assert_allclose(other["target_weight"], one["target_weight"] * factor, rtol=1e-6)
    assert_same_batch(*({k: v for k, v in batch.items() if "weight" not in k} for batch in (one, other)))
    with pytest.raises(MixtureError, match="loss_weight=0"):
        Loader(configs(stores, loss_weight=0), make_tokenizer(), ROWS, LENGTH, 0, threads=0)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_kinds_that_a_source_does_not_learn_are_read_but_no_targets(stores, cache_bytes):
    text, action = KINDS.index("text"), KINDS.index("action")
    only = {"missions": ("action",)}
    chosen = [dataclasses.replace(c, loss_kinds=only.get(n)) for c, n in zip(configs(stores), stores, strict=True)]
    plain = Loader(configs(stores), make_tokenizer(), ROWS, LENGTH, 0, threads=0, cache_bytes=cache_bytes)
    loader = Loader(chosen, make_tokenizer(), ROWS, LENGTH, 0, threads=0, cache_bytes=cache_bytes)
    number = [source.name for source in loader.sources].index("missions")
    one, other = plain.batch(0), loader.batch(0)
    np.testing.assert_array_equal(one["ids"], other["ids"])
    missions = (other["source"] == number) & (other["kinds"] == text)
    assert missions.any()
    assert (one["loss_weight"][missions] > 0).all()
    np.testing.assert_array_equal(other["loss_weight"], np.where(missions, 0, one["loss_weight"]))
    learned = other["target_weight"] > 0
    assert set(other["target_kind"][learned & (other["target_source"] == number)].tolist()) == {action}
    assert text in other["target_kind"][learned]  # of the documents
    state = json.loads(json.dumps(loader.state()))
    loader.restore(state)
    with pytest.raises(ResumeError, match="loss_kinds"):
        plain.restore(state)
    with pytest.raises(MixtureError, match="loss_kinds has 'patch', but the recipe learns text, action"):
        Loader(configs(stores, loss_kinds=("patch",)), make_tokenizer(), ROWS, LENGTH, 0, threads=0)
