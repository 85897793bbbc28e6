"""`gato data show`: a page of few, short or damaged episodes is still a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines import store_writer
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.errors import MixtureError
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


def test_figures_as_a_reader_wants_them(tmp_path):
    page = write_data_page([write(tmp_path / "s", [20, 32, 39])], tmp_path / "data.html", 256).read_text()
    table = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert table[0] == ["leaf", "kind", "shape", "range", "notes"]
    assert table[1] == ["observations.an_order", "text", "–", "16 characters", "always the same"]
    assert table[2][3] == "0 … 255"
    assert "lengths 20 … 32 … 39 timesteps," in page
    size = sum(file.stat().st_size for file in (tmp_path / "s").glob("*.array_record"))
    assert 10_000 < size < 1_000_000
    assert f"<b>{size / 1e3:,.0f} kB</b>" in page


def test_each_frame_and_each_action_is_marked(tmp_path):
    page = write_data_page([write(tmp_path / "s", [15])], tmp_path / "data.html", 256).read_text()
    steps = re.findall(r"<figcaption>step (\d+)</figcaption>", page)
    assert steps == ["0", "2", "4", "6", "8", "10", "12", "14"]
    chart = re.search(r'<svg[^>]*aria-label="actions">(.*?)</svg>', page, re.DOTALL)[1]
    words = re.findall(r"<text[^>]*>([^<]*)", chart)
    assert words == ["0", "5", "10", "step", "action[0]", "1", "-1", "action[1]", "1", "-1"]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_time_axis_of_a_very_short_episode_has_whole_steps(tmp_path, steps):
    page = write_data_page([write(tmp_path / "s", [steps])], tmp_path / "data.html", 32).read_text()
    chart = re.search(r'<svg[^>]*aria-label="actions">(.*?)</svg>', page, re.DOTALL)[1]
    assert re.findall(r"<text[^>]*>([^<]*)", chart)[:3] == ["0", "1", "step"]


def test_the_key_names_the_colours_that_occur(tmp_path):
    page = write_data_page([write(tmp_path / "s", [30] * 20)], tmp_path / "data.html", 256).read_text()
    key = re.findall(r'<li><i style="background:(.*?)"></i>(.*?)</li>', page)
    assert key == [("var(--patch)", "prompts"), ("var(--action)", "episode windows"), ("var(--faint)", "empty")]
    for colour, _ in key[:2]:
        assert f'style="fill:{colour}"' in page
    assert "prompt: " in page

    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
    with StoreWriter(tmp_path / "t", "texts", spec, {}) as writer:
        for number in range(50):
            writer.write(Episode({"text": [f"document {number}"]}, {}, np.zeros(1, np.float32)))
    page = write_data_page([tmp_path / "t"], tmp_path / "data.html", 64).read_text()
    assert re.findall(r"</i>(.*?)</li>", page) == ["documents", "empty"]


def test_rows_too_short_are_refused_after_the_page_is_written(tmp_path):
    stores = [write(tmp_path / name, [4]) for name in ("a", "b")]
    refusal = "lab/cups: a timestep of episode 0 has .* tokens, a row has 10"
    with pytest.raises(
        MixtureError, match=rf"{refusal}.* \(and so for 1 more\); .*data.html is written, without the rows"
    ):
        write_data_page(stores, tmp_path / "data.html", 10)
    page = (tmp_path / "data.html").read_text()
    assert len(re.findall(refusal, page)) == 2
    assert headings(page).count("Actions of episode 0") == 2
