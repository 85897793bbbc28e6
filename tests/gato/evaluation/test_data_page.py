"""`gato data show`: a page of few, short or damaged episodes is still a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines import store_writer
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.evaluation.data_page import write_data_page

SPEC = EpisodeSpec.of(
    {"camera": LeafSpec("image", (32, 32, 3)), "an_order": LeafSpec("text")},
    LeafSpec("continuous", (2,), low=-1.0, high=1.0),
)


def write(folder: Path, lengths: list[int]) -> Path:
    rng = np.random.default_rng(0)
    with StoreWriter(folder, "lab/cups", SPEC, {"fps": 12.5}) as writer:
        for steps in lengths:
            observations = {
                "camera": rng.integers(256, size=(steps, 32, 32, 3), dtype=np.uint8),
                "an_order": ["stack <the> cups"] * steps,
            }
            actions = {"action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32)}
            writer.write(Episode(observations, actions, np.zeros(steps, np.float32)))
    return folder


def headings(page: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", page)


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (10, [0, 3, 6])])
def test_every_shown_episode_is_another_one(tmp_path, count, shown):
    page = write_data_page([write(tmp_path / "s", [4] * count)], tmp_path / "data.html", 256).read_text()
    assert headings(page) == [
        *(f"Frames of episode {number}" for number in shown),
        "Actions of episode 0",
        "Tokens",
        "Rows",
    ]
    assert "12.5 frames a second" in page
    assert "stack &lt;the&gt; cups" in page
    assert "<the>" not in page


def test_about_a_thousand_tokens_by_kind_and_weight(tmp_path):
    """Of a long episode the beginning, in a box that scrolls; learned tokens are filled."""
    page = write_data_page([write(tmp_path / "s", [600])], tmp_path / "data.html").read_text()
    chips = re.findall(r'class="chip (k-\w+)( learned)?" (?:src|title)', page)
    assert len(chips) == 1024
    kinds = dict.fromkeys(chips)
    assert {("k-action", " learned"), ("k-patch", ""), ("k-separator", "")} <= set(kinds)
    assert ("k-action", "") not in kinds
    assert '<div class="scroll">' in page
    assert re.search(r"episode 0, its first \d+ of 600 timesteps", page)
    assert "loss weight 1" in page


def test_a_damaged_episode_is_named_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 1)  # a shard for each record
    store = write(tmp_path / "s", [4, 4, 4])
    damaged = Store(store).file_of(1)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    page = write_data_page([store], tmp_path / "data.html", 256).read_text()
    assert headings(page)[:2] == ["Frames of episode 0", "Frames of episode 2"]
    assert "Actions of episode 0" in page
    assert page.count("data-00001.array_record") >= 2  # in the statistics and in place of the frames
