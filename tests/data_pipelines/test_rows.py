"""The row order: a pure function of i, quotas by weight, nothing dropped."""

import numpy as np
import pytest
from synthetic import make_tokenizer

from gato.data_pipelines import rows as rows_module
from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.mixture import SourceConfig, open_sources
from gato.data_pipelines.mixture_table import mixture_table
from gato.data_pipelines.rows import (
    BEGIN,
    END,
    EPISODE,
    PROMPT_BEGIN,
    PROMPT_END,
    PROMPT_EPISODE,
    SOURCE,
    Rows,
)

LENGTH = 128
WEIGHTS = {"vectors": 3.0, "missions": 1.0, "changing": 0.5, "pixels": 2.0, "text": 1.5, "captions": 0.2}


def open_rows(
    stores, seed: int = 0, split: str = "train", names=tuple(WEIGHTS), length: int = LENGTH, **config
) -> Rows:
    configs = [
        SourceConfig(
            stores[name],
            WEIGHTS[name],
            window_timesteps={"vectors": 1, "missions": 2}.get(name),
            expert_filter=None,
            held_out_episodes=3,
            **config,
        )
        for name in names
    ]
    return Rows(open_sources(configs, make_tokenizer(), length, seed), length, seed, split)


def tokens(table: np.ndarray) -> np.ndarray:
    return table[:, END] - table[:, BEGIN] + table[:, PROMPT_END] - table[:, PROMPT_BEGIN]


def test_any_order_of_access_gives_the_same_rows(stores):
    rows, other = open_rows(stores), open_rows(stores)
    numbers = np.random.default_rng(0).integers(0, 20 * rows.rows_per_block, 40).tolist()
    expected = {n: rows.segments(n, n + 1)[0] for n in numbers}
    for n in reversed(numbers):
        np.testing.assert_array_equal(other.segments(n, n + 1)[0], expected[n])
    start = rows.rows_per_block - 3  # across the border of a block
    table, row_of = rows.segments(start, start + 6)
    for k in range(6):
        np.testing.assert_array_equal(table[row_of == k], other.segments(start + k, start + k + 1)[0])


def test_far_rows_need_no_history(stores):
    rows = open_rows(stores)
    far = rows.rows_per_block * 10**7 + 5
    table, _ = rows.segments(far, far + 4)
    assert tokens(table).sum() > 3 * LENGTH


def test_seeds_differ(stores):
    tables = [open_rows(stores, seed).segments(0, 8)[0].tolist() for seed in (0, 1)]
    assert tables[0] != tables[1]


def test_nothing_is_dropped_or_repeated_over_blocks(stores):
    """Consecutive blocks tile the stream of every source's epochs without a gap."""
    rows = open_rows(stores)
    table = np.concatenate([rows.block(number).segments for number in range(4)])
    for number, source in enumerate(rows.sources):
        windows = table[table[:, SOURCE] == number]
        count = int((windows[:, END] - windows[:, BEGIN]).sum())
        epochs, rest = divmod(count, int(source.index.totals[source.episodes["train"]].sum()))
        for episode in source.episodes["train"]:
            mine = windows[windows[:, EPISODE] == episode]
            seen = np.zeros(int(source.index.totals[episode]) + 1, int)
            np.add.at(seen, mine[:, BEGIN], 1)
            np.add.at(seen, mine[:, END], -1)
            times = np.cumsum(seen)[:-1]
            assert times.min() >= epochs
            assert times.max() <= epochs + (rest > 0)


def test_weights_are_shares_of_the_tokens(stores):
    rows = open_rows(stores)
    table = np.concatenate([rows.block(number).segments for number in range(12)])
    counts = np.bincount(table[:, SOURCE], tokens(table))
    wanted = np.array(list(WEIGHTS.values()))
    np.testing.assert_allclose(counts / counts.sum(), wanted / wanted.sum(), atol=0.003, rtol=0.01)


def test_rows_are_full_and_never_too_long(stores):
    rows = open_rows(stores)
    for number in range(6):
        block = rows.block(number)
        filled = np.add.reduceat(tokens(block.segments), block.starts[:-1])
        assert filled.max() <= LENGTH
        assert filled.min() > 0
        assert filled.mean() > 0.95 * LENGTH


def test_sources_mix_within_a_few_rows(stores):
    rows = open_rows(stores)
    for start in range(0, 128, 32):
        table, _ = rows.segments(start, start + 32)
        assert len(np.unique(table[:, SOURCE])) >= 5


def test_overflow_is_cut_at_timesteps_and_loses_only_prompts(stores, monkeypatch):
    """With quotas that the packing cannot meet, every window token is still there."""
    names = ("changing", "pixels", "captions")
    calibrated = open_rows(stores, names=names)
    monkeypatch.setattr(Rows, "_calibrate", lambda self: None)
    rows = open_rows(stores, names=names)
    assert rows.fill > calibrated.fill
    cut = 0
    for number in range(5):
        wanted = rows._sequences(number)
        block = rows.block(number)
        filled = np.add.reduceat(tokens(block.segments), block.starts[:-1])
        assert filled.max() <= LENGTH
        assert windows(block.segments) == windows(wanted)
        cut += len(block.segments) - len(wanted)
    assert cut > 0


def windows(table: np.ndarray) -> list[tuple[int, int, int]]:
    """How often each token of each episode is there."""
    return sorted(
        (source, episode, token)
        for source, episode, begin, end in table[:, [SOURCE, EPISODE, BEGIN, END]].tolist()
        for token in range(begin, end)
    )


def test_prompts_give_way_when_windows_need_the_room(stores, monkeypatch):
    monkeypatch.setattr(Rows, "_calibrate", lambda self: None)
    monkeypatch.setattr(Rows, "_windows_of_tokens", lambda self, source: 1.0)  # as if prompts took no room
    rows = open_rows(stores, names=("vectors", "pixels"))
    block = rows.block(0)
    assert (block.segments[:, PROMPT_EPISODE] == -1).all()
    assert windows(block.segments) == windows(rows._sequences(0))
    assert np.add.reduceat(tokens(block.segments), block.starts[:-1]).max() <= LENGTH


@pytest.mark.parametrize("name", ["vectors", "text", "captions", "pixels"])
def test_one_source_alone(stores, name):
    rows = open_rows(stores, names=(name,))
    table, row_of = rows.segments(0, 64)
    assert set(row_of) == set(range(64))
    assert (table[:, SOURCE] == 0).all()


def test_items_that_fill_just_over_half_a_row(stores):
    """One caption a row: half of the row stays empty, and still nothing is cut."""
    index = open_sources([SourceConfig(stores["captions"])], make_tokenizer(), LENGTH, 0)[0].index
    length = int(index.totals.max())
    rows = open_rows(stores, names=("captions",), length=length)
    for number in range(3):
        table = rows.block(number).segments
        assert (table[:, BEGIN] == 0).all()
        np.testing.assert_array_equal(table[:, END], index.totals[table[:, EPISODE]])


def test_held_out_rows_show_held_out_episodes_only(stores):
    rows = open_rows(stores, split="held_out")
    table, _ = rows.segments(0, 200)
    for number, source in enumerate(rows.sources):
        mine = table[table[:, SOURCE] == number]
        assert set(mine[:, EPISODE]) == set(source.episodes["held_out"])
        assert set(mine[:, PROMPT_EPISODE]) <= {-1, *source.episodes["held_out"]}


def test_no_held_out_episodes_is_an_error(stores):
    sources = open_sources([SourceConfig(stores["text"])], make_tokenizer(), LENGTH, 0)
    with pytest.raises(MixtureError, match="no source has held-out episodes"):
        Rows(sources, LENGTH, 0, "held_out")


def test_the_plan_bounds_patches_and_targets(stores):
    rows = open_rows(stores)
    table, _ = rows.segments(0, rows_module.SMALLEST_BLOCK)
    patches, targets = rows.most(table)
    for number, source in enumerate(rows.sources):
        mine = table[:, SOURCE] == number
        assert (patches[mine] > 0).all() == (source.index.patches_per_unit > 0)
        assert (targets[mine] <= tokens(table)[mine]).all()
        if source.name == "vectors":  # 3 + 2 observed, a separator, two action tokens
            np.testing.assert_array_equal(targets[mine], tokens(table)[mine] // 8 * 2)


def test_the_table_of_a_mixture_counts_epochs_as_the_rows_do(stores):
    rows = open_rows(stores)
    sources = rows.sources
    count = 3 * rows.rows_per_block
    table, _ = rows.segments(0, count)
    epochs = rows.epochs(count)
    for number, source in enumerate(sources):
        mine = table[table[:, SOURCE] == number]
        tokens = (mine[:, END] - mine[:, BEGIN]).sum()
        whole = source.index.totals[source.episodes["train"]].sum()
        assert epochs[number] == pytest.approx(tokens / whole, rel=0.05), source.name
    lines = mixture_table(sources, rows, count)
    assert len(lines) == len(sources) + 1
    for line, source in zip(lines[1:], sources, strict=True):
        assert line.startswith(source.name)
