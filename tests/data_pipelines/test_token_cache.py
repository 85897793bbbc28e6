"""Which sources are kept in memory: those that fit with their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import PIXELS, VECTORS, make_tokenizer, vectors_episode, write_store

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.mixture import Source, SourceConfig, open_sources
from gato.data_pipelines.token_cache import COLUMNS, PATCH_BYTES, TokenCache, distinct_patches, patch_hashes

STEPS, EPISODES, PATCHES = 40, 6, 6


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """A camera whose pixels never repeat, a simulator whose picture stands still, and numbers."""
    rng = np.random.default_rng(0)
    shape = (STEPS, *PIXELS.observations["image"].shape)

    def episode(image: np.ndarray) -> Episode:
        return Episode({"image": image}, {"action": np.zeros(STEPS, int)}, np.zeros(STEPS, np.float32))

    camera = [episode(rng.integers(256, size=shape, dtype=np.uint8)) for _ in range(EPISODES)]
    still = [episode(np.full(shape, k, np.uint8)) for k in range(EPISODES)]
    paths = [
        write_store(tmp_path / "camera", "camera", PIXELS, camera),
        write_store(tmp_path / "still", "still", PIXELS, still),
        write_store(
            tmp_path / "numbers", "numbers", VECTORS, [vectors_episode(rng, k, STEPS) for k in range(EPISODES)]
        ),
    ]
    return open_sources([SourceConfig(path, expert_filter=None) for path in paths], make_tokenizer(), 256, 0)


def used(cache: TokenCache) -> int:
    for number, source in enumerate(cache._sources):
        for episode in range(EPISODES):
            cache.tokens(number, episode, 0, int(source.index.totals[episode]))
    assert cache._bytes == sum(table.nbytes + patches.pixels.nbytes for table, patches in cache._entries.values())
    return cache._bytes


def test_what_is_kept_fits_and_is_read_once(sources, monkeypatch):
    tables = sum(int(source.index.totals.sum()) for source in sources) * COLUMNS * 4
    pixels = STEPS * EPISODES * PATCHES * PATCH_BYTES  # of the camera
    cache = TokenCache(sources, make_tokenizer(), capacity=tables + pixels // 2)
    assert cache._kept == [False, True, True]  # of the still pictures, one is kept for each episode
    kept = used(cache)
    assert kept < tables + pixels // 2
    read: list[str] = []
    make = TokenCache._make
    monkeypatch.setattr(
        TokenCache, "_make", lambda self, n, *args: read.append(sources[n].name) or make(self, n, *args)
    )
    assert used(cache) == kept
    assert set(read) == {"camera"}
    assert TokenCache(sources, make_tokenizer(), capacity=tables + 3 * pixels)._kept == [True] * 3
    assert TokenCache(sources, make_tokenizer(), capacity=0)._kept == [False] * 3
    assert used(TokenCache(sources, make_tokenizer(), capacity=0)) == 0


def test_a_range_is_the_same_kept_or_not(sources):
    kept, read = (TokenCache(sources, make_tokenizer(), capacity=capacity) for capacity in (1 << 30, 0))
    rng = np.random.default_rng(1)
    for _ in range(40):
        number, episode = int(rng.integers(3)), int(rng.integers(EPISODES))
        total = int(sources[number].index.totals[episode])
        begin, end = sorted(rng.choice(total + 1, 2, replace=False).tolist())
        (a, a_patches), (b, b_patches) = (cache.tokens(number, episode, begin, end) for cache in (kept, read))
        np.testing.assert_array_equal(a[:, [0, 1, 2, 4, 5]], b[:, [0, 1, 2, 4, 5]])
        for x, y in zip(a[:, 3].tolist(), b[:, 3].tolist(), strict=True):
            assert (x < 0) == (y < 0)
            if x >= 0:
                np.testing.assert_array_equal(a_patches.pixels[x], b_patches.pixels[y])


def test_hashes_tell_nearly_equal_patches_apart():
    """Wrong pixels would be the price of a collision, and a sum of weighted words has many among these."""
    words = PATCH_BYTES // 8
    rng = np.random.default_rng(0)
    base = rng.integers(256, size=PATCH_BYTES, dtype=np.uint8)
    rows = [base]
    for byte in (0, 7):  # the lowest and the highest of a word
        for first, second in ((a, b) for a in range(words) for b in range(a + 1, words) if (a + b) % 3 == 0):
            for one, other in ((1, 1), (128, 128), (64, 192), (255, 1)):
                row = base.copy()
                row[8 * first + byte] ^= one
                row[8 * second + byte] ^= other
                rows.append(row)
    patches = np.stack(rows)
    assert len(np.unique(patch_hashes(patches.view(np.uint64)))) == len(np.unique(patches, axis=0)) > 10_000


@pytest.mark.parametrize("repeated", [False, True])
def test_patches_that_are_all_different_are_not_moved(repeated):
    patches = np.random.default_rng(0).integers(256, size=(12, 16, 16, 3), dtype=np.uint8)
    if repeated:
        patches[7] = patches[2]  # of another place in another timestep
    distinct, index = distinct_patches(patches, 3)
    np.testing.assert_array_equal(distinct.pixels[index], patches)
    assert len(distinct.pixels) == len(set(distinct.hashes.tolist())) == 12 - repeated
    assert (distinct.pixels is patches) == (not repeated)
