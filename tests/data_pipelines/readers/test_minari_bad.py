"""Minari data sets that contradict themselves: written by Minari, then spoilt in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import GatoError

pytest.importorskip("minari")
pytest.importorskip("h5py")

import h5py
from test_minari import create, nested

STEPS = (4, 5, 6)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``made(format)`` -> the folder of a data set of three episodes, 4, 5 and 6 steps long."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def make(data_format: str = "hdf5") -> Path:
        create("lab/arm-v0", [nested(steps) for steps in STEPS], data_format)
        return tmp_path / "lab" / "arm-v0" / "data"

    return make


def replace(episode: Any, name: str, values: Any) -> None:
    del episode[name]
    episode[name] = values


def longer(episode: Any, name: str) -> None:
    replace(episode, name, np.concatenate([episode[name][:], episode[name][-1:]]))


def spoil(episode: Any, name: str, value: Any) -> None:
    values = episode[name][:]
    values[2] = value
    replace(episode, name, values)


def cut_jpeg(episode: Any) -> None:
    files = [bytes(file) for file in episode["observations/camera"][:]]
    assert files[2].startswith(b"\xff\xd8")
    files[2] = files[2][:-40]
    del episode["observations/camera"]
    kept = episode.create_dataset("observations/camera", (len(files),), dtype=h5py.vlen_dtype(np.uint8))
    for number, file in enumerate(files):
        kept[number] = np.frombuffer(file, np.uint8)


JOINTS = "observations/arm/joints"
# What is done to episode 1 (5 steps), and what the message says behind its place.
SPOILT: dict[str, tuple[Callable[[Any], None], str]] = {
    "no rewards": (lambda e: e.__delitem__("rewards"), "cannot be read: no .*rewards"),
    "no leaf": (lambda e: e.__delitem__(JOINTS), r"observations\.arm\.joints: missing"),
    "an extra leaf": (lambda e: e.__setitem__("observations/extra", np.zeros(6)), "cannot be read: no 'extra'"),
    "T observations": (lambda e: replace(e, JOINTS, e[JOINTS][:-1]), r"arm\.joints: 5 values for 5 rewards; .* has 6"),
    "T+1 actions": (lambda e: longer(e, "actions/_index_0"), r"actions\.0: 6 values for 5 rewards"),
    "T+1 rewards": (lambda e: longer(e, "rewards"), "6 rewards, but its metadata says total_steps=5"),
    "T-1 truncations": (lambda e: replace(e, "truncations", e["truncations"][:-1]), "truncations: 4 of them for 5"),
    "another shape": (
        lambda e: replace(e, JOINTS, np.zeros((6, 3), np.float32)),
        r"joints: shape \(3,\) a step, the spec",
    ),
    "NaN": (lambda e: spoil(e, JOINTS, np.nan), r"observations\.arm\.joints: step 2: NaN or infinity"),
    "NaN reward": (lambda e: spoil(e, "rewards", np.nan), "rewards: NaN or infinity at step 2"),
    "a strange action": (lambda e: spoil(e, "actions/_index_0", 3), r"actions\.0: step 2: value 3 outside 0\.\.2"),
    "out of range": (lambda e: spoil(e, JOINTS, 1.5), r"arm\.joints: step 2: 1\.5 outside the range -1\.0\.\.1\.0"),
    "no text": (lambda e: spoil(e, "observations/order", b"caf\xe9"), "cannot be read: 'utf-8' codec can't decode"),
    "a cut picture": (cut_jpeg, "cannot be read: "),
    "cut as a whole": (
        lambda e: [replace(e, n, e[n][:-1]) for n in ("rewards", "terminations", "truncations")],
        "4 rewards, but its metadata says total_steps=5",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_bad_episode_is_named_and_can_be_left_out(made, imported, what):
    folder = made()
    change, message = SPOILT[what]
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        change(file["episode_1"])
    with pytest.raises(GatoError, match=rf"data: episode 1.*{message}"):
        imported(folder.parent)
    assert imported(folder.parent, dest="rest", bad="skip").lengths.tolist() == [4, 6]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("field", ["total_episodes", "data_format", "action_space"])
def test_metadata_that_lack_a_field(made, imported, data_format, field):
    file = made(data_format) / "metadata.json"
    about = json.loads(file.read_text())
    del about[field]
    file.write_text(json.dumps(about))
    with pytest.raises(SourceError, match=r"data/metadata\.json: does not describe a data set: ."):
        imported(file.parent.parent)
    file.write_text(json.dumps(about)[:-5])
    with pytest.raises(SourceError, match=r"data/metadata\.json: cannot be read"):
        imported(file.parent.parent)
    file.unlink()
    with pytest.raises(SourceError, match=r"data/metadata\.json: missing"):
        imported(file.parent.parent, format="minari")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_another_number_of_episodes_than_stated(made, imported, data_format):
    file = made(data_format) / "metadata.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"total_episodes": 2}))
    with pytest.raises(SourceError, match=r"has an episode 2, but metadata\.json says total_episodes=2"):
        imported(file.parent.parent, bad="skip")
    file.write_text(json.dumps(about | {"total_episodes": 4}))
    with pytest.raises(SourceError, match=r"data: episode 3: missing; metadata\.json says total_episodes=4"):
        imported(file.parent.parent)
    assert imported(file.parent.parent, dest="rest", bad="skip").lengths.tolist() == list(STEPS)
    file.write_text(json.dumps(about | {"total_episodes": 0}))
    with pytest.raises(SourceError, match=r"data: no episode in it"):
        imported(file.parent.parent)


def test_a_data_file_that_is_missing_or_cut(made, imported):
    folder = made()
    file = folder / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"main_data\.hdf5: cannot be read: "):
        imported(folder.parent, bad="skip")
    file.unlink()
    with pytest.raises(SourceError, match=r"main_data\.hdf5: missing"):
        imported(folder.parent, bad="skip")


def test_an_arrow_episode_that_is_cut_as_a_whole(made, imported):
    """Its file is another one, whole in itself; only the episode's own metadata say how long it is."""
    folder = made("arrow")
    (mine,), (other,) = ((folder / number).glob("*.arrow") for number in "12")
    mine.write_bytes(other.read_bytes())
    with pytest.raises(SourceError, match="data: episode 1: 6 rewards, but its metadata says total_steps=5"):
        imported(folder.parent)
    assert imported(folder.parent, dest="rest", bad="skip").lengths.tolist() == [4, 6]
