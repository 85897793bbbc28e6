"""Plain arrays: npz folders and HDF5 files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.arrays import ArraysReader
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec


def episode(rng: np.random.Generator, steps: int) -> dict[str, Any]:
    return {
        "observations/camera": rng.integers(256, size=(steps, 32, 48, 3), dtype=np.uint8),
        "observations/body/joints": rng.normal(size=(steps, 4)),
        "observations/gripper_open": rng.random(steps) < 0.5,
        "observations/instruction": np.array("pick up the red block"),
        "actions": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        "rewards": rng.random(steps).astype(np.float32),
        "success": np.array(True),
        "operator": np.array("anna"),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "mine"
    path.mkdir()
    for number in range(5):
        np.savez_compressed(path / f"{number:03d}.npz", **episode(rng, 3 + number))
    return path


def check(store: Any) -> None:
    rng = np.random.default_rng(0)
    assert store.lengths.tolist() == [3, 4, 5, 6, 7]
    assert store.spec.observations == {
        "body.joints": LeafSpec("continuous", (4,)),
        "camera": LeafSpec("image", (32, 48, 3)),
        "gripper_open": LeafSpec("discrete", values=2),
        "instruction": LeafSpec("text"),
    }
    assert store.spec.actions == {"action": LeafSpec("continuous", (3,), low=-1.0, high=1.0)}
    for number in range(5):
        written, read = episode(rng, 3 + number), store.episode(number)
        np.testing.assert_array_equal(read.observations["camera"], written["observations/camera"])
        np.testing.assert_array_equal(read.actions["action"], written["actions"])
        np.testing.assert_array_equal(read.rewards, written["rewards"])
        joints = written["observations/body/joints"].astype(np.float32)
        np.testing.assert_array_equal(read.observations["body.joints"], joints)
        assert read.observations["instruction"] == ["pick up the red block"] * (3 + number)
        assert read.metadata["success"] is True
        assert read.metadata["operator"] == "anna"


def test_a_folder_of_npz_files(folder, imported):
    check(imported(folder))


def test_an_hdf5_file(tmp_path, imported):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        for number in range(5):
            group = file.create_group(f"episode_{number}")
            for name, value in episode(rng, 3 + number).items():
                group[name] = value.item() if value.dtype.kind == "U" else value
    check(imported(tmp_path / "mine.h5"))


def test_integers_need_a_number_of_values(tmp_path, imported):
    folder = tmp_path / "mine"
    folder.mkdir()
    data = {"observations.x": np.zeros((4, 2)), "actions": np.array([0, 1, 2, 3])}
    np.savez(folder / "a.npz", **data)
    with pytest.raises(SourceError, match=r"actions\.action holds integers.*--values actions\.action=N"):
        imported(folder)
    assert imported(folder, values=(("actions.action", 4),)).spec.actions["action"].values == 4
    (folder / "spec.json").write_text(
        json.dumps({"actions": {"action": {"modality": "discrete", "values": 9}}, "metadata": {"task": "my/task"}})
    )
    store = imported(folder, dest="other")
    assert store.spec.actions["action"].values == 9
    assert store.metadata["task"] == "my/task"


BAD = {
    "an action less": ("actions", lambda v: v[:-1], r"actions\.action: 4 steps, but the episode has 5"),
    "T+1 observations": (
        "observations/body/joints",
        lambda v: np.concatenate([v, v[:1]]),
        r"body\.joints: 6 steps, but the episode has 5",
    ),
    "NaN": ("observations/body/joints", lambda v: np.full_like(v, np.nan), r"joints: step 0: NaN or infinity"),
    "wrong shape": ("observations/camera", lambda v: v[:, :16], r"camera: shape \(16, 48, 3\) a step"),
    "out of range": (
        "actions",
        lambda v: v * 0 + 1.5,
        r"actions\.action: step 0: 1\.5 outside the range -1\.0\.\.1\.0",
    ),
    "rewards with two axes": ("rewards", lambda v: v[:, None], r"rewards have shape \(5, 1\)"),
    "missing leaf": ("observations/camera", lambda v: None, r"lacks observations\.camera"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_episodes_are_named_and_can_be_skipped(folder, imported, tmp_path, case):
    name, change, message = BAD[case]
    arrays = dict(np.load(folder / "002.npz"))
    value = change(arrays.pop(name))
    np.savez(folder / "002.npz", **(arrays if value is None else {**arrays, name: value}))
    with pytest.raises((SourceError, SpecError), match=message):
        imported(folder)
    assert not (tmp_path / "store").exists()
    store = imported(folder, dest="rest", bad="skip")
    assert store.lengths.tolist() == [3, 4, 6, 7]
    assert store.metadata["import"]["skipped"] == 1
    ((number, why),) = [json.loads(line) for line in (tmp_path / "rest" / "skipped.jsonl").read_text().splitlines()]
    assert number == 2
    assert why


def test_an_episode_without_a_timestep_is_refused(folder, imported):
    np.savez(folder / "001.npz", **{name: v[:0] if v.ndim else v for name, v in np.load(folder / "001.npz").items()})
    with pytest.raises(SpecError, match="no timestep"):
        imported(folder)


def test_truncated_files_are_named(folder, imported):
    file = folder / "003.npz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"003\.npz: cannot be read"):
        imported(folder)


def test_leaves_that_do_not_exist_are_named(folder):
    with pytest.raises(SourceError, match=r"no leaf 'observations\.cam'; did you mean 'observations\.camera'"):
        ArraysReader(folder, {"observations.cam": None})


def test_leaves_can_be_left_out(folder):
    reader = ArraysReader(folder, {"observations.camera": None})
    (first,) = reader.read(0)
    assert "camera" not in reader.spec.observations
    assert "camera" not in first.observations
