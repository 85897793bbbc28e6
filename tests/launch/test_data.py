"""`gato data`: import, check, show and train-tokenizer from the command line."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.launch.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(6):
        steps = 5 + number
        np.savez(
            folder / f"{number}.npz",
            **{
                "observations/camera": rng.integers(256, size=(steps, 32, 32, 3), dtype=np.uint8),
                "observations/an_order": np.array("stack the red cups"),
                "observations/joints": rng.normal(size=(steps, 4)),
                "actions": rng.integers(3, size=steps),
            },
        )
    return folder


def test_from_recordings_to_a_page(recordings, tmp_path, capsys):
    store = tmp_path / "data" / "cups"
    arguments = ["data", "import", str(recordings), str(store), "--values", "actions.action=3", "--name", "lab/cups"]
    assert main([*arguments, "--processes", "2"]) == 0
    assert "imported: 6 episodes, 45 timesteps" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "was imported before" in capsys.readouterr().out
    assert main(["data", "check", str(store), "--json", str(tmp_path / "check.json")]) == 0
    out = capsys.readouterr().out
    assert "observations.joints" in out
    assert "nothing is wrong" in out
    assert json.loads((tmp_path / "check.json").read_text())[0]["episodes"] == 6
    assert main(["data", "show", str(store), "--out", str(tmp_path / "data.html"), "--length", "256"]) == 0
    page = (tmp_path / "data.html").read_text()
    for words in ("lab/cups", "Frames", "Actions of episode 0", "Rows", "stack the red cups", "data:image/png"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_bad_records_are_listed(recordings, tmp_path, capsys):
    np.savez(recordings / "3.npz", **{**dict(np.load(recordings / "3.npz")), "observations/joints": np.zeros((2, 4))})
    arguments = ["data", "import", str(recordings), str(tmp_path / "s"), "--values", "actions.action=3"]
    assert main(arguments) == 2
    assert "observations.joints: 2 steps, but the episode has 8" in capsys.readouterr().err
    capsys.readouterr()
    assert main([*arguments, "--bad", "skip"]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 bad episodes or files" in out
    assert "record 3:" in out
    assert len(Store(tmp_path / "s")) == 5


def test_mistakes_are_one_line(recordings, tmp_path, capsys):
    twice = ["--values", "actions.action=3", "--values", "actions.acton=3"]
    for arguments, words in (
        (["data", "import", str(tmp_path / "nothing"), "x"], "no such file or folder"),
        (["data", "import", str(recordings), str(tmp_path / "x")], "actions.action holds integers"),
        (["data", "import", str(recordings), str(tmp_path / "x"), "--values", "action"], "no LEAF=N"),
        (
            ["data", "import", str(recordings), str(tmp_path / "x"), *twice],
            "did you mean 'actions.action'",
        ),
        (["data", "check", str(tmp_path)], "not a store"),
        (["data", "check", str(tmp_path), "--json", str(recordings / "0.npz" / "x.json")], "0.npz"),
        (["data", "check", str(tmp_path), "--json", str(tmp_path)], "is a folder; name a file in it"),
        (["data", "show", str(tmp_path), "--out", str(tmp_path)], "is a folder; name a file in it"),
        (["data"], "ACTION"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_messages_are_shown_as_they_are(tmp_path, capsys, monkeypatch):
    """Square brackets are markup to the printer of tables, but paths and messages may have them."""
    store = tmp_path / "data [bold]"
    spec = EpisodeSpec.of({"x": LeafSpec("continuous")}, LeafSpec("continuous", low=-1.0, high=1.0))
    with StoreWriter(store, "lab/[red]s", spec, {}) as writer:
        writer.write(Episode({"x": np.zeros(3)}, {"action": np.full(3, 2.0)}, np.zeros(3, np.float32)))
    assert main(["data", "check", str(store), "--json", str(tmp_path / "new" / "check.json")]) == 1
    out = capsys.readouterr().out
    assert f"lab/[red]s  {store}\n" in out
    assert f"  {store}/data-00000.array_record: episode 0: actions.action: step 0: 2 outside -1.0..1.0\n" in out
    assert "not fit for training" in out
    assert json.loads((tmp_path / "new" / "check.json").read_text())[0]["violated"] == 1


def test_a_store_without_text_is_no_text(tmp_path, capsys):
    spec = EpisodeSpec.of({"x": LeafSpec("continuous")}, LeafSpec("continuous", low=-1.0, high=1.0))
    with StoreWriter(tmp_path / "s", "s", spec, {}) as writer:
        writer.write(Episode({"x": np.zeros(3)}, {"action": np.zeros(3)}, np.zeros(3, np.float32)))
    assert main(["data", "train-tokenizer", str(tmp_path / "s"), "--out", str(tmp_path / "text.model")]) == 2
    assert "holds no text to train on" in capsys.readouterr().err


def test_damage_in_a_corpus_ends_the_training_of_a_tokenizer(tmp_path, capsys):
    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
    with StoreWriter(tmp_path / "s", "s", spec, {}) as writer:
        for k in range(2000):
            writer.write(Episode({"text": [f"document {k} of {k * k} words"]}, {}, np.zeros(1, np.float32)))
    shard = tmp_path / "s" / "data-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["data", "train-tokenizer", str(tmp_path / "s"), "--out", str(tmp_path / "text.model")]) == 2
    assert f"gato: {shard}: record " in capsys.readouterr().err
    assert not (tmp_path / "text.model").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_as_a_new_user_follows_it(tmp_path, monkeypatch):
    """Every block of these sections of docs/data.md, in order: programs are saved or run, commands are given."""
    monkeypatch.chdir(tmp_path)
    for heading in ("From a folder of episodes to a run", "The same from Python"):
        section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        assert len(blocks) >= 4
        for language, code in blocks:
            file = re.match(r"# (\w+\.py)\n", code)
            if file:
                Path(file[1]).write_text(code)
            elif language == "python":
                exec(compile(code, str(PAGE), "exec"), {})
            else:
                for program, *arguments in map(shlex.split, code.splitlines()):
                    if program == "python":
                        runpy.run_path(arguments[0])
                    else:
                        assert program == "gato"
                        assert main(arguments) == 0
    assert {"data.html", "episodes", "text.model"} <= {path.name for path in tmp_path.iterdir()}
    assert [path.name for path in (tmp_path / "runs" / "try" / "checkpoints").iterdir()] == ["20"]


def test_a_tokenizer_of_ones_own(tmp_path, capsys):
    words = np.random.default_rng(0).permutation([f"word{k:04d} und noch {k * 7} mehr" for k in range(3000)])
    (tmp_path / "a.txt").write_text("\n".join(words[:2000]))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": word}) for word in words[2000:]))
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    assert main(["data", "train-tokenizer", *paths, "--out", str(tmp_path / "text.model"), "--pieces", "1200"]) == 0
    assert "1,200 pieces, hash " in capsys.readouterr().out
    first = (tmp_path / "text.model").read_bytes()
    assert main(["data", "train-tokenizer", *paths, "--out", str(tmp_path / "again.model"), "--pieces", "1200"]) == 0
    assert (tmp_path / "again.model").read_bytes() == first
    assert main(["data", "train-tokenizer", *paths, "--out", str(tmp_path / "big.model"), "--pieces", "90000"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("gato: cannot train 90000 pieces")
