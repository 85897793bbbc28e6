"""LeRobot data sets that contradict themselves, in both layouts, spoilt in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import GatoError

pytest.importorskip("av")
pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as parquet
from test_lerobot import CAMERA, FPS, LENGTHS, STATE, frame, table, write_v21, write_v30, write_video

LAYOUTS = [write_v21, write_v30]
DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


def columns() -> dict[str, list[Any]]:
    return table([1]).to_pydict()


def spoilt(column: str, change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    """Writes the table of episode 1 with a column changed in place."""

    def spoil(folder: Path) -> None:
        values = columns()
        change(values[column])
        parquet.write_table(pa.table(values), folder / DATA)

    return spoil


def without(column: str) -> Callable[[Path], None]:
    return lambda folder: parquet.write_table(pa.table(columns()).drop_columns([column]), folder / DATA)


def put(step: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda values: values.__setitem__(step, value)


def film(count: int = LENGTHS[1]) -> list[np.ndarray]:
    return [frame(1, step) for step in range(count)]


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


# What is done to episode 1 (12 steps) of version 2.1, and what is said.
SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN": (
        spoilt(STATE, put(3, [0.0, float("nan"), 0.0])),
        r"episode 1: observations\.state: step 3: NaN or infinity",
    ),
    "NaN reward": (spoilt("next.reward", put(4, float("nan"))), "episode 1: rewards: NaN or infinity at step 4"),
    "no reward": (spoilt("next.reward", put(4, None)), "episode 1: rewards: NaN or infinity at step 4"),
    "another shape": (spoilt(STATE, put(3, [0.0, 1.0])), r"episode 1: observations\.state: values of different len"),
    "shapes": (
        lambda folder: parquet.write_table(pa.table(columns() | {STATE: [[0.0, 1.0]] * 12}), folder / DATA),
        r"episode 1: observations\.state: shape \(2,\) a step, the spec says \(3,\)",
    ),
    "out of range": (spoilt("action", put(2, [200.0, 0.0])), r"actions\.action: step 2: 200 outside the range"),
    "no column": (without(STATE), r"episode 1: no column 'observation\.state'"),
    "no rewards": (without("next.reward"), r"episode 1: no column 'next\.reward'"),
    "an unknown column": (
        lambda folder: parquet.write_table(pa.table(columns() | {"observation.force": [0.0] * 12}), folder / DATA),
        r"episode 1: a column 'observation\.force', which meta/info\.json does not list",
    ),
    "no index": (without("episode_index"), "episode_000001.parquet: no column episode_index of whole numbers"),
    "no task": (without("task_index"), "episode 1: no column 'task_index'"),
    "a strange task": (spoilt("task_index", put(5, 7)), "episode 1: a task_index that meta/tasks does not name"),
    "another's row": (spoilt("episode_index", put(11, 2)), "episode 1: 11 rows, but the meta data says 12"),
    "nobody's row": (spoilt("episode_index", put(11, 9)), "episode_000001.parquet: has rows of episode 9, which meta/"),
    "a cut table": (cut(DATA, 900), "episode_000001.parquet: cannot be read"),
    "no table": (lambda folder: (folder / DATA).unlink(), r"episode_000001\.parquet: missing; episode 1 needs it"),
    "a cut video": (cut(VIDEO, 900), r"episode_000001\.mp4: cannot be decoded"),
    "no video": (lambda folder: (folder / VIDEO).unlink(), r"episode_000001\.mp4: missing; episode 1 needs it"),
    "a short video": (
        lambda folder: write_video(folder / VIDEO, film(9)),
        r"9 frames from 0\.000 s on, but the episode",
    ),
    "a small video": (
        lambda folder: write_video(folder / VIDEO, [image[:32, :32] for image in film()], (32, 32)),
        r"images\.top: a frame of \(32, 32, 3\), the spec says \(48, 64, 3\)",
    ),
    "a slow video": (
        lambda folder: write_video(folder / VIDEO, film(), fps=FPS // 2),
        r"episode_000001\.mp4: a frame at 0\.200 s where one at 0\.100 s must be",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_bad_episode_is_named_and_can_be_left_out(tmp_path, imported, what):
    folder = write_v21(tmp_path / "towels")
    change, message = SPOILT[what]
    change(folder)
    with pytest.raises(GatoError, match=message):
        imported(folder)
    assert imported(folder, dest="rest", bad="skip").lengths.tolist() == [LENGTHS[0], LENGTHS[2]]


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("fps", "towels/meta: incomplete: no 'fps'"),
        ("features", "towels/meta: incomplete: no 'features'"),
        ("data_path", "towels/meta: incomplete: no 'data_path'"),
        ("video_path", "towels/meta: incomplete: no 'video_path'"),
        ("total_episodes", "towels/meta: incomplete: no 'total_episodes'"),
        ("total_frames", "towels/meta: incomplete: no 'total_frames'"),
        ("codebase_version", r"info\.json: version None; v2\.0, v2\.1, v3\.0 can be read"),
    ],
)
def test_metadata_that_lack_a_field(tmp_path, imported, write, field, message):
    file = write(tmp_path / "towels") / "meta" / "info.json"
    about = json.loads(file.read_text())
    del about[field]
    file.write_text(json.dumps(about))
    with pytest.raises(SourceError, match=message):
        imported(tmp_path / "towels", bad="skip")


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, r"info\.json: fps=0 must be positive"),
        ({"fps": "fast"}, "towels/meta: incomplete: ValueError"),
        ({"total_episodes": 4}, "towels/meta: 3 episodes listed, info.json says 4"),
        ({"total_frames": 25}, "towels/meta: the listed episodes have 24 steps, info.json says 25"),
        ({"features": {"action": {"shape": [2]}}}, r"info\.json: feature 'action' has no 'dtype'"),
        ({"features": {STATE: {"dtype": "float32", "shape": [3]}}}, "towels: no feature called action"),
    ],
)
def test_metadata_that_cannot_be(tmp_path, imported, write, change, message):
    file = write(tmp_path / "towels") / "meta" / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SourceError, match=message):
        imported(tmp_path / "towels", bad="skip")


def test_episodes_that_are_listed_twice_or_not_at_all(tmp_path, imported):
    folder = write_v21(tmp_path / "towels")
    file = folder / "meta" / "episodes.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1], lines[1].replace('"length": 12', '"length": 5')]))
    with pytest.raises(SourceError, match="towels/meta: episode 1 is listed 2 times"):
        imported(folder)
    file.write_text("\n".join([*lines[:2], lines[2].replace('"episode_index": 2', '"episode_index": 7')]))
    with pytest.raises(SourceError, match=r"episode_000007\.parquet: missing; episode 7 needs it"):
        imported(folder)
    file.write_text("\n".join([*lines[:2], "{" + lines[2]]))
    with pytest.raises(SourceError, match=r"episodes\.jsonl: line 3: no JSON"):
        imported(folder)
    file.unlink()
    with pytest.raises(SourceError, match=r"episodes\.jsonl: cannot be read"):
        imported(folder)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("data/file_index", 5, r"file-005\.parquet: missing; episode 2 needs it"),
        ("data/file_index", 0, r"file-000\.parquet: episode 2: 0 rows, but the meta data says 5"),
        ("episode_index", 9, r"file-001\.parquet: has rows of episode 2, which meta/ does not list"),
        (f"videos/{CAMERA}/file_index", 3, r"file-003\.mp4: missing; episode 2 needs it"),
        (f"videos/{CAMERA}/from_timestamp", 2.2, r"file-000\.mp4: 2 frames from 2\.200 s on, but the episode has 5"),
        (f"videos/{CAMERA}/from_timestamp", 99.0, r"file-000\.mp4: 0 frames from 99\.000 s on"),
    ],
)
def test_places_that_do_not_hold_an_episode(tmp_path, imported, column, value, message):
    """Version 3.0 says in a table where each episode lies; here it is wrong about the last one."""
    folder = write_v30(tmp_path / "towels")
    file = folder / "meta/episodes/chunk-000/file-000.parquet"
    listed = parquet.read_table(file).to_pydict()
    listed[column][2] = value
    parquet.write_table(pa.table(listed), file)
    with pytest.raises(SourceError, match=message):
        imported(folder)
    assert imported(folder, dest="rest", bad="skip").lengths.tolist() == list(LENGTHS[:2])


@pytest.mark.parametrize("write", LAYOUTS)
def test_without_the_words_of_the_tasks_nothing_is_imported(tmp_path, imported, write):
    """And why is said, however long the path is that the library's message names first."""
    folder = write(tmp_path / ("far" * 50) / "towels")
    (file,) = (folder / "meta").glob("tasks.*")
    file.unlink()
    with pytest.raises(SourceError, match=r"meta/tasks\.\w+: cannot be read: "):
        imported(folder)


@pytest.mark.parametrize("name", ["data/chunk_index", f"videos/{CAMERA}/from_timestamp", "length"])
def test_a_table_of_places_that_lacks_a_column(tmp_path, imported, name):
    folder = write_v30(tmp_path / "towels")
    file = folder / "meta/episodes/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(file).drop_columns([name]), file)
    with pytest.raises(SourceError, match=f"towels/meta: incomplete: no '{name}'"):
        imported(folder, bad="skip")
    file.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"file-000\.parquet: cannot be read"):
        imported(folder, bad="skip")
