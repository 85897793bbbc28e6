"""The report: complete, self-contained, honest about what is missing, and drawn by a real browser."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.evaluation.evaluation_page import write_evaluation_page
from gato.evaluation.jobs import Protocol
from gato.evaluation.report import ReportError, render, write_report
from gato.evaluation.report_charts import Score, line_chart, number, score_bars, smooth
from gato.evaluation.report_pictures import describe_tokens, png_uri, token_picture, write_gif
from gato.evaluation.scores import summarise, task_entry
from gato.tokenizers.layout import KINDS
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import TokenSequence
from gato.tokenizers.vocabulary import Vocabulary

TASKS = ("metaworld/reach-v3", "metaworld/push-v3", "babyai/PickupLoc", "sokoban/7x7-1box", "ale/breakout")


def sequence(vocabulary: Vocabulary) -> TokenSequence:
    """Two timesteps: a patch, an instruction of two tokens, two bins, the separator, an action."""
    kinds = [KINDS.index(k) for k in ("patch", "text", "text", "continuous", "continuous", "separator", "action")]
    bins = [vocabulary.text_size + 3, vocabulary.text_size + 1023]
    ids = [vocabulary.padding, 300, 301, *bins, vocabulary.separator, 2]
    weight = [0, 1, 1, 0, 0, 0, 1]
    return TokenSequence(
        ids=np.array(ids * 2, np.int32),
        loss_weight=np.array(weight * 2, np.float32),
        local_position=np.arange(14, dtype=np.int16),
        timestep=np.repeat([0, 1], 7).astype(np.int32),
        kinds=np.array(kinds * 2, np.int8),
        patch_index=np.array([0, *[-1] * 6, 1, *[-1] * 6], np.int32),
        patches=np.stack([np.full((16, 16, 3), 40, np.uint8), np.full((16, 16, 3), 200, np.uint8)]),
        patch_intervals=np.zeros((2, 4), np.int16),
        timestep_starts=np.array([0, 7, 14], np.int32),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with every file that the report reads; the numbers are made up."""
    rng = np.random.default_rng(0)
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    tasks = {}
    for i, name in enumerate(TASKS):
        score = 0.2 * i + 0.1
        tasks[name] = {
            "score": score, "low": score - 0.1, "high": score + 0.1, "random": 0.05, "expert": 1.0, "episodes": 20,
            "normalised": 100 * (score - 0.05) / 0.95, "specialist": 0.95, "metric": "success",
        }  # fmt: skip
    tasks["babyai/PickupLoc"]["controls"] = {"wrong_mission": 0.1}
    tasks["dm_control/hard"] = {
        "score": 3.0, "low": 2.0, "high": 4.0, "random": 5.0, "expert": 5.0, "episodes": 20, "normalised": None,
        "undefined": "the expert (5) is not better than random (5)",
    }  # fmt: skip
    summary = summarise(tasks)
    summary["captions"] = {"captions/rooms": {"object_f1": 0.81, "low": 0.7, "high": 0.9, "shuffled_object_f1": 0.22}}
    (evaluation / "summary.json").write_text(json.dumps(summary))
    for name in TASKS[:4]:
        frames = [rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(6)]
        write_gif(frames, evaluation / "gifs" / f"{name.replace('/', '__')}.gif")
    picture = png_uri(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    captions = [
        {"image": picture, "expected": "a red ball", "answer": "a red ball"},
        {"image": picture, "question": "how many <balls>?", "expected": "2", "answer": "1"},
    ]
    (evaluation / "captions.json").write_text(json.dumps({"samples": captions}))
    vocabulary = Vocabulary()
    described = describe_tokens("metaworld/reach-v3", sequence(vocabulary), vocabulary, TextTokenizer.default())
    (evaluation / "tokens.json").write_text(json.dumps([described]))
    lines = []
    for step in range(0, 1000, 10):
        loss = 4 * math.exp(-step / 300) + 0.5
        line = {"step": step, "loss": loss, "loss/text": loss + 1, "loss/action": loss, "tokens_per_second": 20000.0}
        line |= {f"loss/source/{name}": loss * (1 + 0.1 * i) for i, name in enumerate(TASKS)} | {"mfu": None}
        lines.append(line)
    lines.append({"step": 990, "validation": 0.9, "validation/action": 0.8})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10')
    config = {"model": {"preset": "tiny <&>"}, "batch_size": 4, "length": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "timings.json").write_text(
        json.dumps({"stages": {"collect": 95.0, "train": 620.5}, "machine": {"cores": 2}})
    )
    return tmp_path


class Page(HTMLParser):
    """Collects links to other resources and checks that tags are closed in order."""

    VOID = ("meta", "link", "img", "br", "rect", "line", "circle", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert tag != "script"
        if tag not in self.VOID or (tag in ("rect", "path") and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(run: Path) -> None:
    page = write_report(run).read_text()
    parsed = Page(page)
    assert parsed.open == []
    assert all(link.startswith("data:") for link in parsed.links)
    assert "http" not in page
    assert len([link for link in parsed.links if link.startswith("data:image/gif")]) == 4
    for section in ("Scores", "The agent at work", "What it sees", "Learning curves", "What the network reads", "Time"):
        assert f"<h2>{section}</h2>" in page
    assert "0.81 [0.70, 0.90]" in page
    assert "with shuffled images 0.22" in page
    assert "tiny &lt;&amp;&gt;" in page
    assert "how many &lt;balls&gt;?" in page
    assert not list(run.glob(".*.partial"))


def test_the_page_of_an_evaluation_is_whole_and_shows_the_paper_and_what_failed(run: Path) -> None:
    episodes = {name: np.linspace(0.2, 0.8, 8) for name in TASKS}
    tasks = {name: task_entry(values, 0.0, 1.0, metric="return") for name, values in episodes.items()}
    for entry in tasks.values():
        entry |= {"failures": {}, "lost": 0, "entropy": 3.21, "mean_steps": 7.0, "prompt": "held out <from> training"}
    tasks["sokoban/7x7-1box"] |= {"failures": {"crashed": 2}, "lost": 1, "lost_because": "hung: no answer within 5 s"}
    tasks["ale/breakout"] |= {"no_film": "RuntimeError: <no> display"}
    write_gif(
        [np.zeros((8, 8, 3), np.uint8)], run / "evaluation" / "gifs" / "metaworld__gone.gif"
    )  # not in the summary
    summary = summarise(tasks, episodes) | {"failures": {"crashed": 2}, "lost": 1, "checkpoint_step": 4000, "seed": 3}
    summary["protocol"] = dataclasses.asdict(Protocol(prompt_tokens=1024, memory="memory"))
    page = write_evaluation_page(run / "evaluation", summary).read_text()
    parsed = Page(page)
    assert parsed.open == []
    assert all(link.startswith("data:") for link in parsed.links)
    assert len([link for link in parsed.links if link.startswith("data:image/gif")]) == 4
    for section in ("Domains", "Scores", "The agent at work", "Environments that failed", "How it was played"):
        assert f"<h2>{section}</h2>" in page
    assert "<td>all tasks</td>" in page
    assert "450 of 604" in page
    assert page.count('class="paper"') == 3  # published means: Meta-World, BabyAI, ALE
    assert "87.0" in page
    assert "2 crashed" in page
    assert "1 lost: hung: no answer within 5 s" in page
    assert "no film: RuntimeError: &lt;no&gt; display" in page
    assert "metaworld/gone" not in page
    assert "held out &lt;from&gt; training" in page
    assert "shown 1,024 tokens of the beginning of a demonstration, Transformer-XL memory, seed 3" in page
    assert "3.21" in page


def test_the_page_of_an_evaluation_shows_what_the_network_sees(run: Path) -> None:
    """Beside tasks, and alone: then nothing is said of tasks that nobody played."""
    written = json.loads((run / "evaluation" / "summary.json").read_text())["captions"]
    played = {TASKS[0]: task_entry(np.linspace(0.2, 0.8, 8), 0.0, 1.0, metric="return")}
    for tasks in (played, {}):
        summary = summarise(tasks) | {"failures": {}, "lost": 0, "checkpoint_step": 4000, "seed": 3}
        summary |= {"captions": written, "protocol": dataclasses.asdict(Protocol())}
        page = write_evaluation_page(run / "evaluation", summary).read_text()
        assert Page(page).open == []
        assert "<h2>What it sees</h2>" in page
        assert "with shuffled images 0.22" in page
        assert "how many &lt;balls&gt;?" in page
        assert ("tasks above half of the expert" in page) == bool(tasks)
        assert ("shown the beginning of a demonstration" in page) == bool(tasks)
        assert ("<b>0.81</b><span>captions/rooms: F1 of the objects named" in page) == (not tasks)


def test_an_undefined_task_is_said_to_be_undefined(run: Path) -> None:
    page = render(run)
    assert page.count("undefined: the expert (5) is not better than random (5)<") == 1
    assert "2 of 5<" in page  # tasks above half: the undefined one counts nowhere


def test_a_task_without_reference_scores_is_not_blamed_on_the_expert(run: Path) -> None:
    path = run / "evaluation" / "summary.json"
    summary = json.loads(path.read_text())
    entry = task_entry([1.0, 2.0], float("nan"), float("nan"), metric="return")
    path.write_text(json.dumps(summary | {"tasks": {"mine/new": entry}}))
    page = render(run)
    assert "undefined: the random or the expert score of this task was not measured<" in page
    assert "not better than random" not in page


def test_missing_files_leave_their_sections_out(run: Path) -> None:
    for name in ("captions.json", "tokens.json"):
        (run / "evaluation" / name).unlink()
    (run / "timings.json").unlink()
    page = render(run)
    for section in ("What it sees", "What the network reads", "Time"):
        assert f"<h2>{section}</h2>" not in page


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run here"):
        write_report(tmp_path)


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / "evaluation" / "summary.json").write_text("{")
    with pytest.raises(ReportError, match=r"summary\.json: not valid JSON"):
        write_report(run)


def test_bars_lie_where_the_scores_are() -> None:
    scores = [Score("half", 0.5, 0.4, 0.6, 0.0, 1.0), Score("full", 1.0, 1.0, 1.0, 0.0, 1.0)]
    bars = [
        tuple(map(float, m))
        for m in re.findall(r'class="agent" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', score_bars(scores))
    ]
    (start, half), (_, full) = bars
    assert half == pytest.approx(full / 2, abs=0.11)
    expert = re.findall(r'class="axis" x1="([\d.]+)"', score_bars(scores))[1]
    assert start + full == pytest.approx(float(expert), abs=0.11)


def test_line_chart_spans_its_data_and_skips_holes() -> None:
    chart = line_chart("loss", {"a": [(0, 9.0), (50, float("nan")), (100, 1.0)]})
    assert chart.count("<path") == 1
    assert "nan" not in chart
    assert "a 1.00" in chart
    assert line_chart("empty", {}) == ""
    assert "<path" in line_chart("constant", {"a": [(0, 1.0), (10, 1.0)]})


def test_smooth_keeps_the_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(1000)]
    reduced = smooth(points, 100)
    assert len(reduced) == 100
    assert np.mean([y for _, y in reduced]) == pytest.approx(np.mean([y for _, y in points]))


@pytest.mark.parametrize(
    ("value", "text"), [(0.617, "0.62"), (18.44, "18.4"), (960.2, "960"), (math.nan, "–"), (0, "0.00")]
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_gif_keeps_size_first_and_last_frame(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), v, np.uint8) for v in np.linspace(0, 250, 300)]
    for i, frame in enumerate(frames):  # frames that are alike would be stored as one
        frame[i // 30, i % 30] = (255, 0, 0)
    write_gif(frames, tmp_path / "a.gif", longest=50)
    image = Image.open(tmp_path / "a.gif")
    assert image.size == (30, 20)
    assert image.n_frames == 50
    assert np.asarray(image.convert("RGB")).mean() < 8
    image.seek(49)
    assert np.asarray(image.convert("RGB")).mean() > 240


def test_png_uri_round_trip() -> None:
    import base64

    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    decoded = Image.open(io.BytesIO(base64.b64decode(png_uri(pixels).partition(",")[2])))
    assert np.array_equal(np.asarray(decoded), pixels)


def test_token_picture_shows_kind_weight_and_label() -> None:
    vocabulary = Vocabulary()
    described = describe_tokens("title", sequence(vocabulary), vocabulary, TextTokenizer.default(), most=7)
    labels = [token["label"] for token in described["tokens"]]
    assert labels[3:] == ["3", "1023", "|", "2"]
    assert [token["weight"] for token in described["tokens"]] == [0, 1, 1, 0, 0, 0, 1]
    assert "pixels" in described["tokens"][0]
    page = token_picture(described)
    assert page.count(" learned") == 3
    assert page.count("<img") == 1
    assert "the first 7 of 14 tokens" in page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_without_complaint(run: Path, tmp_path: Path, scheme: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "this test needs a browser: apt install chromium"
    picture = tmp_path / "page.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,3600", f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", write_report(run).as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert picture.is_file(), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (3600, 1000)
    background = pixels[:20, :20].mean()
    assert (background < 60) if scheme == "dark" else (background > 220)
    # Something is drawn in each third of the page, in more than a few colours.
    for third in np.array_split(pixels, 3):
        assert len(np.unique(third.reshape(-1, 3)[::7], axis=0)) > 30
