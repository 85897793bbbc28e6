"""`gato data`: import, check, show and train-tokenizer from the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.launch.cli import main
from gato.tokenizers.corpus import stdlib_documents

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
    assert "18 … 18 characters" in out
    assert "returns" not in out  # the recordings have no rewards
    assert "nothing is wrong" in out
    assert json.loads((tmp_path / "check.json").read_text())[0]["episodes"] == 6
    assert main(["data", "show", str(store), "--out", str(tmp_path / "data.html"), "--length", "256"]) == 0
    page = (tmp_path / "data.html").read_text()
    for words in ("lab/cups", "Frames", "Actions of episode 0", "Rows", "stack the red cups", "data:image/png"):
        assert words in page
    assert "http" not in page.replace("http://www.w3.org", "")
    capsys.readouterr()
    assert main(["data", "show", str(store), "--out", str(tmp_path / "short.html"), "--length", "10"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gato: lab/cups: a timestep of episode 0 has ")
    assert error.endswith(f"{tmp_path / 'short.html'} is written, without the rows")
    assert "Frames" in (tmp_path / "short.html").read_text()


def test_bad_records_are_listed(recordings, tmp_path, capsys):
    np.savez(recordings / "3.npz", **{**dict(np.load(recordings / "3.npz")), "observations/joints": np.zeros((2, 4))})
    arguments = ["data", "import", str(recordings), str(tmp_path / "s"), "--values", "actions.action=3"]
    assert main(arguments) == 2
    assert "observations.joints: 2 steps, but the episode has 8" in capsys.readouterr().err
    capsys.readouterr()
    assert main([*arguments, "--bad", "skip"]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 bad episode or file " in out
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
        (["data", "train-tokenizer", str(tmp_path / "nothing"), "--out", "x"], "nothing: no such file or folder"),
        (["data", "show", str(tmp_path), "--text-model", str(PAGE)], "data.md: is no SentencePiece model"),
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


def test_a_terminal_shows_some_of_many_bad_episodes_and_the_file_has_all(tmp_path, capsys):
    spec = EpisodeSpec.of({"x": LeafSpec("continuous")}, LeafSpec("continuous", low=-1.0, high=1.0))
    with StoreWriter(tmp_path / "s", "lab/s", spec, {}) as writer:
        for _ in range(27):
            writer.write(Episode({"x": np.zeros(3)}, {"action": np.full(3, 2.0)}, np.zeros(3, np.float32)))
    assert main(["data", "check", str(tmp_path / "s"), "--json", str(tmp_path / "check.json")]) == 1
    out = capsys.readouterr().out
    assert out.count("2 outside -1.0..1.0") == 20
    assert "... and 7 more bad episodes: --json FILE lists all" in out
    (report,) = json.loads((tmp_path / "check.json").read_text())
    assert [number for number, _ in report["violations"]] == list(range(27))
    assert main(["data", "show", str(tmp_path / "s"), "--out", str(tmp_path / "data.html"), "--length", "128"]) == 0
    assert (tmp_path / "data.html").read_text().count("2 outside -1.0..1.0") == 20


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


# Of the page: what cannot be run without a network, and what is no command.
OFFLINE = ("pip ", "python -m venv", ".venv-beam/", "source ", "lab/mark ")
# A run of the page's, made small enough for a test.
TINY = ["--config.model.preset=tiny", "--config.length=256", "--config.batch_size=8"]


def page_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page imports and does not make itself, under the page's names."""
    monkeypatch.syspath_prepend(str(PAGE.parents[1] / "tests" / "data_pipelines" / "readers"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / ".minari" / "datasets"))
    import test_minari
    import tfds_files
    from tensorflow_datasets.core import features as f

    made = [test_minari.nested(steps) for steps in range(4, 16)]
    experts = [
        dataclasses.replace(episode, rewards=[1 / len(episode.rewards)] * len(episode.rewards)) for episode in made
    ]
    test_minari.create("D4RL/door/human-v2", experts)
    marks = dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_)
    step = {"observation": {"x": np.float32}, "action": {"gripper": np.int64}, "reward": np.float32, **marks}
    features, rng = f.FeaturesDict({"steps": f.Dataset(step)}), np.random.default_rng(0)
    examples = [tfds_files.fill(features, rng, steps=5) for _ in range(4)]
    for example in examples:
        for number, values in enumerate(example["steps"]):
            values["action"]["gripper"] = number % 2
    tfds_files.write(folder / "rlds" / "cups", "cups", None, features, examples)
    (folder / "recordings" / "cups").mkdir(parents=True)
    for number in range(26):
        robot = {"observations/joints": rng.normal(size=(9, 7)), "actions": rng.uniform(-3, 3, (9, 7))}
        np.savez(folder / "recordings" / "cups" / f"{number}.npz", **robot, success=np.array(number > 0))
    documents = list(stdlib_documents())
    (folder / "wiki.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    (folder / "notes.txt").write_text("What else we know about cups.")


def install(project: dict[str, Any], module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that the page's pyproject.toml describes, as pip would install it."""
    (package,) = {value.partition(".")[0] for value in project["entry-points"]["gato.datasets"].values()}
    about = folder / "site" / f"{package}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["gato.datasets"].items())
    (about / "entry_points.txt").write_text(f"[gato.datasets]\n{entries}")
    (folder / "site" / package).mkdir()
    (folder / "site" / package / "__init__.py").write_text("")
    (folder / "site" / package / "cups.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder / "site"))


def follow(command: str) -> None:
    """Gives a command of the page; a run is a tiny one, and what is imported anew replaces what is there."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "python":
        runpy.run_path(arguments[0])
        return
    assert program == "gato", command
    if arguments[0] == "train":
        given = {argument.partition("=")[0] for argument in arguments}
        arguments += [option for option in TINY if option.partition("=")[0] not in given]
        arguments += [] if "--config.steps" in given else ["--config.steps=2"]
    if arguments[:2] == ["data", "import"]:
        shutil.rmtree(arguments[3], ignore_errors=True)
    if "mixtures/gato_paper" in command:  # a folder for each of the paper's domains that somebody has
        shutil.copytree("data/door", "data/meta_world/door")
    assert main(arguments) == 0, command


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_as_a_new_user_follows_it(tmp_path, monkeypatch):
    """Every block of docs/data.md, in order: programs are saved or run, commands given. Only pip is left out."""
    for package in ("minari", "tensorflow_datasets", "google_crc32c", "h5py"):
        pytest.importorskip(package)
    page_sources(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    text = re.sub(r" *\\\n\s*", " ", PAGE.read_text()).replace("/mnt/recordings", f"{tmp_path}/recordings")
    commands = []
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        file = re.match(r"# (\w+\.py)\b", code)
        if file:
            Path(file[1]).write_text(code)
        elif language == "json":
            (tmp_path / "recordings" / "cups" / "spec.json").write_text(code)
        elif language == "toml":
            install(tomllib.loads(code)["project"], Path("my_robot.py").read_text(), tmp_path, monkeypatch)
        elif language == "python" and "import_beam" not in code:  # that one has a test in its own environment
            exec(compile(code, str(PAGE), "exec"), {})
        elif not language:
            lines = [line for line in code.splitlines() if not line.startswith(OFFLINE)]
            commands += lines
            for line in lines:
                follow(line)
    assert len(commands) > 15
    assert {"data.html", "check.json", "text.model"} <= {path.name for path in tmp_path.iterdir()}
    steps = {run.name: [step.name for step in (run / "checkpoints").iterdir()] for run in Path("runs").iterdir()}
    assert steps == {"try": ["20"], "words": ["2"], "mixture": ["2"], "paper": ["2"]}


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
