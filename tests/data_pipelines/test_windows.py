"""The plan of an epoch: every unit once, windows from random offsets, prompts as in the paper."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import MISSIONS, make_tokenizer, missions_episode, sentence, write_store

from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.mixture import Source, SourceConfig, open_sources
from gato.data_pipelines.prompts import PromptPool
from gato.data_pipelines.windows import cut
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

LENGTH = 128


def open_one(path, length: int = LENGTH, **config) -> Source:
    return open_sources([SourceConfig(path, **config)], make_tokenizer(), length, seed=0)[0]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 20), st.floats(0, 1, exclude_max=True))
@settings(max_examples=100)
def test_cut_partitions_every_episode(units, window, draw):
    n = len(units)
    which, start, stop = cut(np.array(units), np.full(n, window), np.full(n, draw))
    assert ((stop - start >= 1) & (stop - start <= window)).all()
    for episode, steps in enumerate(units):
        mine = which == episode
        covered = np.concatenate([np.arange(a, b) for a, b in zip(start[mine], stop[mine], strict=True)])
        assert covered.tolist() == list(range(steps))
        inner = (stop - start)[mine][1:-1]
        assert (inner == window).all()


def test_cut_starts_anywhere():
    _, start, _ = cut(np.full(4000, 30), np.full(4000, 10), np.random.default_rng(0).random(4000))
    counts = np.bincount(start[(start > 0) & (start <= 10)])[1:]  # of each episode's second window
    assert len(counts) == 10
    assert counts.min() > 0.85 * counts.mean()


@pytest.mark.parametrize(
    ("name", "window"),
    [
        *((name, window) for name in ("vectors", "missions", "changing", "pixels") for window in (None, 1, 2)),
        ("text", None),  # documents have no timesteps
        ("captions", None),
    ],
)
def test_every_token_exactly_once_an_epoch(stores, name, window):
    source = open_one(stores[name], window_timesteps=window, expert_filter=None, held_out_episodes=2)
    for epoch in range(3):
        plan = source.plan("train", 7, epoch)
        tokens = plan.end - plan.begin + plan.prompt_end - plan.prompt_begin
        assert tokens.max() <= LENGTH
        assert plan.before[-1] == source.index.totals[source.episodes["train"]].sum()
        for episode in range(len(source.store)):
            mine = np.flatnonzero(plan.episode == episode)
            mine = mine[np.argsort(plan.begin[mine])]
            ranges = list(zip(plan.begin[mine].tolist(), plan.end[mine].tolist(), strict=True))
            if episode in source.episodes["held_out"]:
                assert ranges == []
                continue
            assert ranges[0][0] == 0
            assert ranges[-1][1] == source.index.totals[episode]
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_epochs_and_seeds_differ_but_repeat(stores):
    source = open_one(stores["vectors"], expert_filter=None)
    plans = [source.plan("train", seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    again = source.plan("train", 0, 0)
    for field in ("episode", "begin", "prompt_episode", "prompt_begin"):
        np.testing.assert_array_equal(getattr(plans[0], field), getattr(again, field))
    orders = [plan.episode[:40].tolist() for plan in plans]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize(("window", "probability"), [(1, 0.25), (None, 0.25), (3, 0.1), (None, 0.5)])
def test_prompt_rate_is_that_of_the_sequences(stores, window, probability):
    source = open_one(stores["vectors"], window_timesteps=window, expert_filter=None, prompt_probability=probability)
    plans = [source.plan("train", 0, epoch) for epoch in range(200 if window is None else 40)]
    prompted = sum(int((plan.prompt_episode >= 0).sum()) for plan in plans)
    rate = prompted / sum(len(plan.episode) for plan in plans)
    assert rate == pytest.approx(probability, abs=0.012)


def test_prompts_are_of_another_episode_half_of_them_from_its_end(stores):
    source = open_one(stores["vectors"], window_timesteps=1, expert_filter=None, prompt_probability=1.0)
    plans = [source.plan("train", 0, epoch) for epoch in range(20)]
    episode, partner, begin, end = (
        np.concatenate([getattr(plan, name) for plan in plans])
        for name in ("episode", "prompt_episode", "prompt_begin", "prompt_end")
    )
    width = source.index.widest[0]
    assert (partner >= 0).all()
    assert (partner != episode).all()
    assert (begin % width == 0).all()
    assert (end % width == 0).all()
    assert (end <= source.index.totals[partner]).all()
    others = np.bincount(partner, minlength=20)  # uniform over the others, up to how often each is asked to prompt
    assert others.min() > 0.6 * others.mean()
    steps = (end - begin) // width
    most = LENGTH // 2 // width
    assert steps.min() == 1
    assert steps.max() == most
    long = source.index.units[partner] >= most
    histogram = np.bincount(steps[long])[1:]
    assert histogram.min() > 0.9 * histogram.mean()
    at_end = end == source.index.totals[partner]
    units = source.index.units[partner]
    expected = 0.5 + 0.5 * np.mean(1 / (units - steps + 1))  # a uniform start ends at the end now and then
    assert at_end.mean() == pytest.approx(expected, abs=0.02)


def test_prompts_stay_within_task_and_agent():
    groups = np.array([0, 1, 0, 2, 1, 0])
    pool = PromptPool(np.array([0, 1, 2, 3, 5]), groups)  # 4 is held out
    draws = np.linspace(0, 1, 50, endpoint=False)
    assert set(pool.partners(np.zeros(50, int), draws)) == {2, 5}
    assert set(pool.partners(np.full(50, 5), draws)) == {0, 2}
    assert set(pool.partners(np.full(50, 1), draws)) == {-1}
    assert set(pool.partners(np.full(50, 3), draws)) == {-1}


@pytest.mark.parametrize("why", ["alone of its agent", "alone of its split", "beside one of timesteps too wide"])
def test_episodes_that_nobody_can_prompt(tmp_path, why):
    """Their texts vary, so that offsets are looked up in the timesteps of the whole store."""
    rng = np.random.default_rng(0)
    episodes = [missions_episode(rng, number, 10 + number, changing=True) for number in range(5)]
    if why == "alone of its agent":
        for number, episode in enumerate(episodes):
            episode.metadata["agent"] = f"agent {number}"
    elif why == "beside one of timesteps too wide":
        for episode in episodes:
            episode.observations["mission"][3] = sentence(rng, 60)
    path = write_store(tmp_path / "s", "s", MISSIONS, episodes)
    held_out = why == "alone of its split"
    source = open_one(path, expert_filter=None, prompt_probability=1.0, held_out_episodes=int(held_out))
    for epoch in range(20):
        plan = source.plan("held_out" if held_out else "train", 0, epoch)
        assert (plan.prompt_episode == -1).all()
        assert (plan.prompt_end == plan.prompt_begin).all()
        assert plan.before[-1] == source.index.totals[source.episodes["held_out" if held_out else "train"]].sum()


def test_prompt_limits(stores):
    width = int(open_one(stores["vectors"]).index.widest[0])
    options = {"expert_filter": None, "window_timesteps": 1, "prompt_probability": 1.0}
    for length, timesteps, most in (
        (8 * width, None, 4),
        (8 * width, 2, 2),
        (2 * width + 1, None, 1),
        (width, None, 0),
    ):
        source = open_one(stores["vectors"], length, prompt_timesteps=timesteps, **options)
        plan = source.plan("train", 0, 0)
        assert (plan.prompt_end - plan.prompt_begin).max() == most * width
        assert ((plan.prompt_episode >= 0).any()) == (most > 0)


@pytest.mark.parametrize(
    ("name", "config", "length", "message"),
    [
        ("vectors", {"weight": 0.0}, 128, "weight=0.0 must be positive and finite"),
        ("vectors", {"weight": float("nan")}, 128, "weight=nan must be"),
        ("vectors", {"weight": -1.0}, 128, "weight=-1.0 must be"),
        ("vectors", {"expert_filter": 1.5}, 128, "vectors: expert_filter=1.5 keeps none of 20 episodes"),
        (
            "vectors",
            {"window_timesteps": 20},
            128,
            "window_timesteps=20 of up to 8 tokens are longer than a row of 128",
        ),
        ("vectors", {"window_timesteps": 0}, 128, "window_timesteps=0: must be at least 1"),
        ("text", {"window_timesteps": 1}, 128, "documents have no timesteps"),
        ("vectors", {}, 7, "a timestep of episode 0 has 8 tokens, a row has 7: use rows of at least 8"),
        ("captions", {}, 5, r"captions: document \d+ has \d+ tokens, a row has 5"),
        (
            "vectors",
            {"held_out_episodes": 20},
            128,
            "held_out_episodes=20 leaves nothing to train on: there are only 20 episodes; set it to 19 or less$",
        ),
        ("vectors", {"prompt_probability": 1.5}, 128, r"prompt_probability=1.5 must be in \[0, 1\]"),
        ("vectors", {"prompt_timesteps": 0}, 128, "prompt_timesteps=0 must be at least 1"),
    ],
)
def test_mistakes_are_one_clear_line(stores, name, config, length, message):
    with pytest.raises(MixtureError, match=message) as error:
        open_one(stores[name], length, **config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("returns", "held_out", "most", "message"),
    [
        ([1.0], 4, 0, "is only 1 episode; set it to 0"),
        ([1.0, 1.0], 2, 1, "are only 2 episodes; set it to 1 or less"),
        (
            [1.0, 0.0, 0.1],
            1,
            0,
            "is only 1 episode of 3 that expert_filter=0.8 keeps; set it to 0, or lower expert_filter",
        ),
    ],
)
def test_too_many_held_out_episodes_are_refused_with_the_way_out(tmp_path, returns, held_out, most, message):
    """The filter is only spoken of where it took something away."""
    rng = np.random.default_rng(0)
    episodes = [missions_episode(rng, number, 5) for number in range(len(returns))]
    for episode, value in zip(episodes, returns, strict=True):
        episode.rewards[:] = value / 5
    path = write_store(tmp_path / "s", "s", MISSIONS, episodes)
    with pytest.raises(MixtureError) as error:
        open_one(path, held_out_episodes=held_out)
    assert str(error.value) == f"s: held_out_episodes={held_out} leaves nothing to train on: there {message}"
    assert len(open_one(path, held_out_episodes=most).episodes["train"]) == 1


def test_an_observation_too_long_for_its_positions_is_refused_before_a_row_shows_it(tmp_path):
    """Of a later timestep of a later episode: what opening reads of the first one does not show it."""
    rng = np.random.default_rng(0)
    episodes = [missions_episode(rng, number, 9, changing=True) for number in range(4)]
    episodes[2].observations["mission"][5] = sentence(rng, 500)
    path = write_store(tmp_path / "s", "s", MISSIONS, episodes)
    pieces = len(TextTokenizer.default().encode(episodes[2].observations["mission"][5]))
    wanted = pieces + 2
    assert 512 < wanted < 1000
    words = rf"s: a timestep of episode 2 observes {wanted} tokens, .* 512 local .*model\.local_positions={wanted}"
    with pytest.raises(MixtureError, match=words) as error:
        open_one(path, 1024)
    assert "\n" not in str(error.value)
    for positions, good in ((wanted, True), (wanted - 1, False)):
        tokenizer = SequenceTokenizer(Vocabulary(), TextTokenizer.default(), Layout(), positions)
        with contextlib.nullcontext() if good else pytest.raises(MixtureError):
            source = open_sources([SourceConfig(path)], tokenizer, 1024, 0)[0]
            stored = source.store.episode(2)
            tokenizer.tokenize(stored.observations, stored.actions, source.store.spec)


def test_mixtures_need_sources_of_different_names(stores):
    with pytest.raises(MixtureError, match="at least one source"):
        open_sources([], make_tokenizer(), LENGTH, 0)
    with pytest.raises(MixtureError, match="two sources are called 'text'"):
        open_sources([SourceConfig(stores["text"])] * 2, make_tokenizer(), LENGTH, 0)


def test_token_counts_are_those_of_the_tokenizer_and_are_cached(stores):
    tokenizer = make_tokenizer()
    for name, path in stores.items():
        source = open_one(path, expert_filter=None)
        for episode in range(len(source.store)):
            stored = source.store.episode(episode)
            sequence = tokenizer.tokenize(stored.observations, stored.actions, source.store.spec)
            assert len(sequence) == source.index.totals[episode]
            if source.store.spec.kind == "control":
                units = np.arange(len(stored) + 1)
                before = source.index.tokens_before(np.full(len(units), episode), units)
                assert before.tolist() == sequence.timestep_starts.tolist()
        assert (path / "cache").exists() == (name in ("missions", "changing", "text", "captions"))
        again = open_one(path, expert_filter=None)
        assert again.index.totals.tolist() == source.index.totals.tolist()


def test_a_cache_of_another_tokenizer_is_not_used(stores, monkeypatch):
    source = open_one(stores["missions"], expert_filter=None)
    tokenizer = make_tokenizer()
    monkeypatch.setattr(tokenizer.text, "hash", "another")
    monkeypatch.setattr(tokenizer.text, "encode", lambda text, where="": np.zeros(3, np.int32))
    other = open_sources([SourceConfig(stores["missions"], expert_filter=None)], tokenizer, LENGTH, 0)[0]
    assert other.index.totals.tolist() != source.index.totals.tolist()
