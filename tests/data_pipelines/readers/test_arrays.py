"""Plain arrays: npz folders and HDF5 files."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.arrays import ArraysReader, natural
from gato.data_pipelines.readers.leaves import values_of
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


def test_hdf5_files(tmp_path, imported):
    """One file with a group for each episode; a folder of such; a folder of files that are an episode each."""
    h5py = pytest.importorskip("h5py")
    groups, files = tmp_path / "groups", tmp_path / "files"
    groups.mkdir()
    files.mkdir()

    def fill(group: Any, arrays: dict[str, Any]) -> None:
        for name, value in arrays.items():
            group[name] = value.item() if value.dtype.kind == "U" else value

    rng = np.random.default_rng(0)
    with (
        h5py.File(tmp_path / "mine.h5", "w") as whole,
        h5py.File(groups / "a.h5", "w") as first,
        h5py.File(groups / "b.h5", "w") as second,
    ):
        for number in range(5):
            arrays = episode(rng, 3 + number)
            fill(whole.create_group(f"episode_{number}"), arrays)
            fill((first if number < 3 else second).create_group(f"episode_{number}"), arrays)
            with h5py.File(files / f"{number}.hdf5", "w") as file:
                fill(file, arrays)
    check(imported(tmp_path / "mine.h5"))
    check(imported(groups, dest="groups_store"))
    check(imported(files, dest="files_store"))
    (files / "0.hdf5").write_bytes((files / "0.hdf5").read_bytes()[:-3000])
    with pytest.raises(SourceError, match=r"0\.hdf5: cannot be read"):
        imported(files, dest="again")
    assert imported(files, dest="rest", bad="skip").lengths.tolist() == [4, 5, 6, 7]
    np.savez(files / "x.npz", actions=np.zeros((2, 1)))
    with pytest.raises(SourceError, match="holds both npz and HDF5 files"):
        imported(files, dest="again")


def test_episodes_come_in_the_order_in_which_they_were_recorded(tmp_path, imported):
    """`expert_return` looks at episodes that follow each other: 2 comes before 10."""
    h5py = pytest.importorskip("h5py")
    names = [f"run {number}" for number in (0, 1, 2, 9, 10, 11, 100)]
    folder = tmp_path / "files"
    folder.mkdir()
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for steps, name in enumerate(names, 1):
            np.savez(folder / f"{name}.npz", actions=np.zeros((steps, 1)), **{"observations/x": np.zeros((steps, 1))})
            file[f"{name}/actions"], file[f"{name}/observations/x"] = np.zeros((steps, 1)), np.zeros((steps, 1))
    for number, source in enumerate((folder, tmp_path / "groups.h5")):
        store = imported(source, dest=f"store_{number}")
        assert store.lengths.tolist() == list(range(1, 8))
        assert [store.episode(k).metadata["episode_id"] for k in range(7)] == names
    mixed = ["a", "a1", "a01", "1a", "10", "9"]
    assert sorted(mixed, key=natural) == ["1a", "9", "10", "a", "a01", "a1"]


def test_an_array_that_lost_its_end_is_damage(folder, imported):
    """NumPy reads what the header says, and zip compares the checksum of what was read to its end."""
    arrays = dict(np.load(folder / "002.npz"))
    arrays["observations/instruction"] = np.array("turn " * 600)
    np.savez(folder / "002.npz", **arrays)
    file = folder / "002.npz"
    file.write_bytes(file.read_bytes().replace(b"'<U3000'", b"'<U1000'"))
    with pytest.raises(SourceError, match=r"002\.npz: cannot be read: Bad CRC-32"):
        imported(folder)
    with zipfile.ZipFile(folder / "003.npz", "a") as opened:  # also where another writer made the checksum of it
        stream = io.BytesIO()
        np.save(stream, np.zeros(3))
        opened.writestr("observations/more.npy", stream.getvalue() + bytes(8))
    with pytest.raises(SourceError, match=r"003\.npz: cannot be read: an array is longer than its header says"):
        next(iter(ArraysReader(folder, {}).read(3)))


def test_a_single_npz_file(folder, imported):
    assert imported(folder / "001.npz").lengths.tolist() == [4]


def test_integers_need_a_number_of_values(tmp_path, imported):
    folder = tmp_path / "mine"
    folder.mkdir()
    data = {"observations.x": np.zeros((4, 2)), "actions": np.array([[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]])}
    np.savez(folder / "a.npz", **data)
    with pytest.raises(SourceError, match=r"actions\.action holds integers.*--values actions\.action=N"):
        imported(folder)
    store = imported(folder, values=(("actions.action", 4),))
    assert store.spec.actions["action"] == LeafSpec("discrete", (3,), values=4)
    assert store.episode(0).actions["action"].tolist() == data["actions"].tolist()
    with pytest.raises(SpecError, match=r"a\.npz: actions\.action: step 1: value 3 outside 0\.\.2"):
        imported(folder, dest="few", values=(("actions.action", 3),))
    (folder / "spec.json").write_text(
        json.dumps(
            {
                "actions": {"action": {"modality": "discrete", "shape": [3], "values": 9}},
                "metadata": {"task": "my/task"},
            }
        )
    )
    store = imported(folder, dest="other")
    assert store.spec.actions["action"].values == 9
    assert store.metadata["task"] == "my/task"


BAD = {
    "an action less": ("actions", lambda v: v[:-1], r"actions\.action: 4 steps, but the episode has 5"),
    "a reward less": ("rewards", lambda v: v[:-1], r"rewards: 4 of them, but actions\.action has 5 steps"),
    "T+1 observations": (
        "observations/body/joints",
        lambda v: np.concatenate([v, v[:1]]),
        r"body\.joints: 6 steps, but the episode has 5",
    ),
    "NaN": ("observations/body/joints", lambda v: np.full_like(v, np.nan), r"joints: step 0: NaN or infinity"),
    "wrong shape": ("observations/camera", lambda v: v[:, :16], r"camera: shape \(16, 48, 3\) a step"),
    "no bytes": ("observations/camera", lambda v: v / 255, r"camera: dtype float64, images are uint8"),
    "transparency": (
        "observations/camera",
        lambda v: np.concatenate([v, v[..., :1]], axis=3),
        r"camera: shape \(32, 48, 4\) a step",
    ),
    "words": ("observations/body/joints", lambda v: v.astype(str), r"joints: values of type <U\d+ are no numbers"),
    "fractions": ("observations/gripper_open", lambda v: v + 0.5, r"gripper_open: fractions, but discrete values"),
    "portrait": ("observations/camera", lambda v: v.swapaxes(1, 2), r"camera: shape \(48, 32, 3\) a step"),
    "channels first": ("observations/camera", lambda v: np.moveaxis(v, 3, 1), r"camera: shape \(3, 32, 48\) a step"),
    "flat frames": ("observations/camera", lambda v: v.reshape(5, -1), r"camera: shape \(4608,\) a step"),
    "folded vectors": ("observations/body/joints", lambda v: v.reshape(5, 2, 2), r"joints: shape \(2, 2\) a step"),
    "out of range": (
        "actions",
        lambda v: v * 0 + 1.5,
        r"actions\.action: step 0: 1\.5 outside the range -1\.0\.\.1\.0",
    ),
    "rewards with two axes": ("rewards", lambda v: v[:, None], r"rewards have shape \(5, 1\)"),
    "missing leaf": ("observations/camera", lambda v: None, r"lacks observations\.camera, which \S+000\.npz has"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_episodes_are_named_and_can_be_skipped(folder, imported, tmp_path, case):
    name, change, message = BAD[case]
    arrays = dict(np.load(folder / "002.npz"))
    value = change(arrays.pop(name))
    np.savez(folder / "002.npz", **(arrays if value is None else {**arrays, name: value}))
    with pytest.raises((SourceError, SpecError), match=rf"mine/002\.npz: .*{message}"):
        imported(folder)
    assert not (tmp_path / "store").exists()
    store = imported(folder, dest="rest", bad="skip")
    assert store.lengths.tolist() == [3, 4, 6, 7]
    assert store.metadata["import"]["skipped"] == 1
    ((number, why),) = [json.loads(line) for line in (tmp_path / "rest" / "skipped.jsonl").read_text().splitlines()]
    assert number == 2
    assert "002.npz" in why


def test_an_extra_key_is_named(folder, imported):
    arrays = dict(np.load(folder / "002.npz"))
    np.savez(folder / "002.npz", **arrays, **{"observations/depth": np.zeros((5, 2))})
    with pytest.raises(SourceError, match=r"002\.npz: has observations\.depth, which \S+000\.npz has not"):
        imported(folder)
    np.savez(folder / "002.npz", **arrays, forces=np.zeros((5, 2)))
    with pytest.raises(SourceError, match=r"002\.npz: 'forces' is neither observations"):
        imported(folder)


def test_a_bad_first_episode_can_be_skipped(folder, imported):
    file = folder / "000.npz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"000\.npz: cannot be read"):
        imported(folder)
    assert imported(folder, bad="skip").lengths.tolist() == [4, 5, 6, 7]


def test_only_what_cannot_be_an_accident_is_reshaped():
    def read(shape: tuple[int, ...], leaf: LeafSpec) -> tuple[int, ...]:
        return values_of(np.zeros((4, *shape), np.uint8), leaf, "here").shape

    assert read((1,), LeafSpec("continuous")) == (4,)
    assert read((), LeafSpec("continuous", (1,))) == (4, 1)
    assert read((6,), LeafSpec("continuous", (2, 3))) == (4, 2, 3)
    assert read((8, 9), LeafSpec("image", (8, 9, 1))) == (4, 8, 9, 1)
    for shape, leaf in (
        ((3, 2), LeafSpec("continuous", (2, 3))),
        ((2, 3), LeafSpec("continuous", (6,))),
        ((9, 8), LeafSpec("image", (8, 9, 1))),
        ((72,), LeafSpec("image", (8, 9, 1))),
    ):
        with pytest.raises(SourceError, match="here: shape"):
            read(shape, leaf)


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


def test_a_misspelt_leaf_is_why_another_has_no_number_of_values(tmp_path, imported):
    np.savez(tmp_path / "a.npz", actions=np.zeros(4, int), **{"observations/lift": np.zeros(4, int)})
    for given in ("action", "actions", "actions.acton"):
        with pytest.raises(SourceError, match=rf"no leaf '{given}'; did you mean 'actions\.action'"):
            imported(tmp_path / "a.npz", values=(("observations.lift", 2), (given, 6)))
    with pytest.raises(SourceError, match=r"actions\.action holds integers"):  # no name is wrong
        imported(tmp_path / "a.npz", values=(("observations.lift", 2),))


def test_pictures_in_other_forms_say_what_pictures_are(tmp_path, imported):
    """Thousands of tokens a step, had they become quantities without a word."""

    def save(camera: np.ndarray) -> Path:
        np.savez(tmp_path / "a.npz", actions=np.zeros((4, 1)), **{"observations/camera": camera})
        return tmp_path / "a.npz"

    for shape in ((4, 48, 64, 3), (4, 8, 8, 1)):
        with pytest.raises(
            SourceError, match=r"observations\.camera holds float64 .* looks like a picture: store it as "
        ):
            imported(save(np.zeros(shape)))
    declared = {"modality": "continuous", "shape": [8, 8, 1]}
    (tmp_path / "spec.json").write_text(json.dumps({"observations": {"camera": declared}}))
    assert imported(tmp_path / "a.npz").spec.observations["camera"] == LeafSpec("continuous", (8, 8, 1))
    (tmp_path / "spec.json").unlink()
    assert imported(save(np.zeros((4, 6, 6, 3))), dest="small").spec.observations["camera"].modality == "continuous"
    for shape in ((4, 3, 48, 64), (4, 48, 64, 4)):
        with pytest.raises(SourceError, match=r"camera holds integers.* Those are \[H, W, 1 or 3\], and this is \["):
            imported(save(np.zeros(shape, np.uint8)))


def test_attributes_of_hdf5_are_metadata(tmp_path, imported):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file.attrs["robot"] = "arm"
        file.attrs["operator"] = np.bytes_("anna")
        for number in range(2):
            group = file.create_group(f"episode_{number}")
            group["actions"], group["weight"] = np.zeros((3, 1)), 7
            group.attrs.update(
                {"success": number == 1, "truncated": True, "offsets": np.zeros(3), "actions": 7, "weight": 8}
            )
            group.attrs["operator" if number else "rewards"] = "otto"
    store = imported(tmp_path / "mine.h5")
    for number, operator in enumerate(("anna", "otto")):
        episode = store.episode(number)
        expected = {
            "robot": "arm",
            "operator": operator,
            "success": number == 1,
            "weight": 7,
            "episode_id": f"episode_{number}",
        }
        assert {name: episode.metadata[name] for name in (*expected, "success")} == expected
        assert "offsets" not in episode.metadata
        assert episode.truncated


def test_episodes_deeper_in_an_hdf5_file_are_found_and_moved_as_the_message_says(tmp_path, imported):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        for number in range(2):
            file[f"data/demo_{number}/actions"] = np.zeros((3 + number, 1))
        file["mask/train"] = np.zeros(2)
    with pytest.raises(SourceError, match=r"file\.move\('data/demo_0', 'demo_0'\)") as error:
        imported(tmp_path / "mine.h5")
    assert "mine.h5: its episodes (data/demo_0, ...) must be groups at the top" in str(error.value)
    with h5py.File(tmp_path / "mine.h5", "a") as file:
        for number in range(2):
            file.move(f"data/demo_{number}", f"demo_{number}")
        del file["data"], file["mask"]
    assert imported(tmp_path / "mine.h5").lengths.tolist() == [3, 4]
