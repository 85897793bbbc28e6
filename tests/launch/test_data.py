"""`gato data`: import, check, show and train-tokenizer from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.store import Store
from gato.launch.cli import main


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
    for words in ("lab/cups", "Frames", "Actions of the first episode", "Rows", "stack the red cups", "data:image/png"):
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
    assert "skipped 1 bad records" in out
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
        (["data"], "ACTION"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


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
    assert len(capsys.readouterr().err.splitlines()) == 1
