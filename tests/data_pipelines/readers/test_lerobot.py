"""LeRobot 2.0, 2.1 and 3.0, written as their pages describe them (its own writer needs torch), with real videos."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import lerobot_video
from gato.data_pipelines.readers.lerobot import LeRobotReader
from gato.tokenizers.spec import LeafSpec

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FPS, HEIGHT, WIDTH = 10, 48, 64
LENGTHS = (7, 12, 5)
TASKS = ("fold the towel", "open the drawer")
CAMERA, STATE = "observation.images.top", "observation.state"


def frame(episode: int, step: int) -> np.ndarray:
    """A colour for the episode, and a bar whose place tells the step."""
    image = np.full((HEIGHT, WIDTH, 3), 40 + 60 * episode, np.uint8)
    image[:, 4 * step : 4 * step + 4] = (250, 30, 30)
    return image


H264 = {"codec": "libx264", "g": "4", "crf": "12"}
AV1 = {"codec": "libsvtav1", "g": "4", "crf": "12", "preset": "10"}  # what LeRobot itself encodes with


def write_video(
    file: Path,
    frames: list[np.ndarray],
    size: tuple[int, int] = (HEIGHT, WIDTH),
    fps: int = FPS,
    encoder: dict[str, str] = H264,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        options = {name: value for name, value in encoder.items() if name != "codec"}
        stream = container.add_stream(encoder["codec"], rate=fps, options=options)
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for number, image in enumerate(frames):
            video_frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            video_frame.pts, video_frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(video_frame))
        container.mux(stream.encode())


def rows(episode: int) -> dict[str, Any]:
    rng = np.random.default_rng(episode)
    steps = LENGTHS[episode]
    return {
        STATE: list(rng.uniform(-100, 100, (steps, 3)).astype(np.float32)),
        "action": list(rng.uniform(-90, 90, (steps, 2)).astype(np.float32)),
        "next.reward": rng.random(steps).astype(np.float32),
        "timestamp": np.arange(steps, dtype=np.float32) / FPS,
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, episode),
        "index": np.arange(steps),
        "task_index": np.full(steps, episode % 2),
    }


def table(episodes: list[int]) -> Any:
    parts = [rows(episode) for episode in episodes]
    return pa.table({key: [value for part in parts for value in part[key]] for key in parts[0]})


def save(rows: Any, file: Path) -> None:
    parquet.write_table(rows, file, write_page_checksum=True)


def info(version: str, **paths: str) -> dict[str, Any]:
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "fps": FPS,
        "chunks_size": 1000,
        "features": {
            CAMERA: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
            STATE: {"dtype": "float32", "shape": [3]},
            "action": {"dtype": "float32", "shape": [2]},
            "next.reward": {"dtype": "float32", "shape": [1]},
            **{name: {"dtype": "int64", "shape": [1]} for name in ("frame_index", "episode_index", "task_index")},
        },
        **paths,
    }


def statistics(episodes: list[int]) -> dict[str, Any]:
    actions = np.concatenate([np.stack(rows(episode)["action"]) for episode in episodes]).astype(np.float64)
    return {"action": {"min": actions.min(axis=0).tolist(), "max": actions.max(axis=0).tolist()}}


def write_v21(folder: Path) -> Path:
    meta = folder / "meta"
    meta.mkdir(parents=True)
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (meta / "info.json").write_text(json.dumps(info("v2.1", **paths)))
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(TASKS)]
    (meta / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    listed, stats = [], []
    for episode, length in enumerate(LENGTHS):
        listed.append({"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length})
        stats.append({"episode_index": episode, "stats": statistics([episode])})
        data = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        save(table([episode]), data)
        video = folder / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        write_video(video, [frame(episode, step) for step in range(length)])
    (meta / "episodes.jsonl").write_text("\n".join(map(json.dumps, listed)))
    (meta / "episodes_stats.jsonl").write_text("\n".join(map(json.dumps, stats)))
    return folder


def write_v20(folder: Path) -> Path:
    """As 2.1, but with statistics of the whole in place of the episodes'."""
    meta = write_v21(folder) / "meta"
    (meta / "episodes_stats.jsonl").unlink()
    (meta / "stats.json").write_text(json.dumps(statistics([0, 1, 2])))
    about = json.loads((meta / "info.json").read_text())
    (meta / "info.json").write_text(json.dumps(about | {"codebase_version": "v2.0"}))
    return folder


def write_v30(folder: Path) -> Path:
    meta = folder / "meta"
    (meta / "episodes/chunk-000").mkdir(parents=True)
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (meta / "info.json").write_text(json.dumps(info("v3.0", **paths)))
    (meta / "stats.json").write_text(json.dumps(statistics([0, 1, 2])))
    tasks = {"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)}
    save(pa.table(tasks), meta / "tasks.parquet")
    (folder / "data/chunk-000").mkdir(parents=True)
    save(table([0, 1]), folder / "data/chunk-000/file-000.parquet")
    save(table([2]), folder / "data/chunk-000/file-001.parquet")
    write_video(
        folder / f"videos/{CAMERA}/chunk-000/file-000.mp4",
        [frame(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)],
    )
    starts = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]]) / FPS
    listed = {
        "episode_index": list(range(len(LENGTHS))),
        "tasks": [[TASKS[k % 2]] for k in range(len(LENGTHS))],
        "length": list(LENGTHS),
        "data/chunk_index": [0] * 3,
        "data/file_index": [0, 0, 1],
        f"videos/{CAMERA}/chunk_index": [0] * 3,
        f"videos/{CAMERA}/file_index": [0] * 3,
        f"videos/{CAMERA}/from_timestamp": starts.tolist(),
    }
    save(pa.table(listed), meta / "episodes/chunk-000/file-000.parquet")
    return folder


def with_av1(folder: Path) -> Path:
    """All episodes one after another in one AV1 file, as LeRobot 3.0 makes it."""
    if AV1["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV has no {AV1['codec']} to write AV1 with")
    write_v30(folder)
    frames = [frame(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)]
    video = folder / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    write_video(video, frames, encoder=AV1)
    if hasattr(os, "sched_setscheduler"):
        # As root, this encoder leaves its caller, and so every thread and process begun later, real-time priority.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name in ("libdav1d", "av1", "libaom-av1")
    return folder


@pytest.mark.parametrize("write", [write_v20, write_v21, write_v30, with_av1])
def test_all_layouts_read_back(tmp_path, imported, write):
    store = imported(write(tmp_path / "towels"))
    assert store.metadata["import"]["format"] == "lerobot"
    assert store.metadata["fps"] == FPS
    assert store.lengths.tolist() == list(LENGTHS)
    assert store.spec.observations == {
        "images.top": LeafSpec("image", (HEIGHT, WIDTH, 3)),
        "state": LeafSpec("continuous", (3,)),
        "task": LeafSpec("text"),
    }
    action = store.spec.actions["action"]
    assert action.low == pytest.approx(statistics([0, 1, 2])["action"]["min"])
    for number, length in enumerate(LENGTHS):
        read, written = store.episode(number), rows(number)
        np.testing.assert_array_equal(read.observations["state"], np.stack(written[STATE]))
        np.testing.assert_array_equal(read.actions["action"], np.stack(written["action"]))
        np.testing.assert_array_equal(read.rewards, written["next.reward"])
        assert read.observations["task"] == [TASKS[number % 2]] * length
        expected = np.stack([frame(number, step) for step in range(length)])
        difference = np.abs(read.observations["images.top"].astype(int) - expected)
        assert difference.mean() < 8  # every frame is the right one: a neighbour differs by its bar
        for step in range(length):
            bar = read.observations["images.top"][step, 24, :, 1].astype(int)
            assert abs(int(np.argmin(bar)) - (4 * step + 1)) <= 2


@pytest.mark.parametrize("write", [write_v21, write_v30])
def test_pictures_in_the_tables(tmp_path, imported, write):
    """Data sets without videos keep their pictures as PNG files in a column, each with the name that it had."""
    folder = write(tmp_path / "towels")
    about = json.loads((folder / "meta/info.json").read_text())
    about["features"][CAMERA] = {"dtype": "image", "shape": [3, HEIGHT, WIDTH]}  # some list the channels first
    (folder / "meta/info.json").write_text(json.dumps(about))
    for file in (folder / "data").rglob("*.parquet"):
        columns = parquet.read_table(file).to_pydict()
        places = list(zip(columns["episode_index"], columns["frame_index"], strict=True))
        columns[CAMERA] = [{"bytes": png(frame(*place)), "path": f"frame-{place[1]:06d}.png"} for place in places]
        save(pa.table(columns), file)
    store = imported(folder)
    assert store.spec.observations["images.top"] == LeafSpec("image", (HEIGHT, WIDTH, 3))
    for number, length in enumerate(LENGTHS):
        read = store.episode(number).observations["images.top"].astype(int)
        expected = np.stack([frame(number, step) for step in range(length)])
        assert np.abs(read - expected).mean() < 2
    file = max((folder / "data").rglob("*.parquet"))
    columns = parquet.read_table(file).to_pydict()
    good = columns[CAMERA][2]["bytes"]
    for spoilt, message in (
        ({"bytes": None, "path": "elsewhere.png"}, "pictures outside the table cannot be read"),
        ({"bytes": good[:-30], "path": None}, "step 2: a damaged image"),
        ({"bytes": png(frame(0, 0)[:32]), "path": None}, r"a frame of \(32, 64, 3\), the spec says \(48, 64, 3\)"),
    ):
        columns[CAMERA][2] = spoilt
        save(pa.table(columns), file)
        with pytest.raises(SourceError, match=rf"episode 2: observations\.images\.top: {message}"):
            imported(folder, dest="other")


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_table_is_not_unfolded_as_a_whole(tmp_path):
    """A file of version 3.0 holds hundreds of episodes; as Python values it is many times its size."""
    folder, steps = tmp_path / "towels", 40_000
    about = info("v3.0", data_path="data/{chunk_index}-{file_index}.parquet", video_path="")
    del about["features"][CAMERA]
    (folder / "meta/episodes").mkdir(parents=True)
    (folder / "data").mkdir()
    about |= {"total_episodes": 200, "total_frames": steps}
    (folder / "meta/info.json").write_text(json.dumps(about))
    rows = pa.table(
        {
            STATE: pa.FixedSizeListArray.from_arrays(np.arange(steps * 3, dtype=np.float32), 3),
            "action": pa.FixedSizeListArray.from_arrays(np.zeros(steps * 2, np.float32), 2),
            "next.reward": np.zeros(steps, np.float32),
            "episode_index": np.arange(steps) // 200,
            "task_index": np.zeros(steps, np.int64),
        }
    )
    save(rows, folder / "data/0-0.parquet")
    places = {name: np.zeros(200, np.int64) for name in ("data/chunk_index", "data/file_index")}
    listed = pa.table({"episode_index": np.arange(200), "length": np.full(200, 200), **places})
    save(listed, folder / "meta/episodes/0.parquet")
    save(pa.table({"task_index": [0], "task": ["wait"]}), folder / "meta/tasks.parquet")
    reader = LeRobotReader(folder, {})
    tracemalloc.start()
    try:
        (episode,) = reader.read(150)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(episode.observations["state"][0], np.arange(3) + 150 * 200 * 3)
    assert peak < 4e6  # as lists all rows take more than 10 MB


def test_frames_that_are_missing_are_never_silent(tmp_path, imported):
    folder = write_v21(tmp_path / "towels")
    video = folder / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    write_video(video, [frame(1, step) for step in range(LENGTHS[1] - 1)])
    with pytest.raises(SourceError, match=r"episode_000001\.mp4: 11 frames from 0\.000 s on, but the episode has 12"):
        imported(folder)
    video.write_bytes(video.read_bytes()[:700])
    with pytest.raises(SourceError, match=r"episode_000001\.mp4: cannot be decoded"):
        imported(folder)
    assert imported(folder, dest="rest", bad="skip").lengths.tolist() == [7, 5]
    video.unlink()
    with pytest.raises(SourceError, match=r"episode_000001\.mp4: missing; episode 1 needs it"):
        imported(folder, dest="other")


def test_other_versions_and_contradictions_are_refused(tmp_path, imported):
    folder = write_v21(tmp_path / "towels")
    parquet.write_table(table([1]).slice(0, 9), folder / "data/chunk-000/episode_000001.parquet")
    with pytest.raises(SourceError, match="episode 1: 9 rows, but the meta data says 12"):
        imported(folder)
    about = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(about | {"codebase_version": "v1.6"}))
    with pytest.raises(SourceError, match=r"version 'v1\.6'; v2\.0, v2\.1, v3\.0 can be read"):
        imported(folder)


def test_pictures_can_be_made_smaller(tmp_path, imported):
    folder = write_v21(tmp_path / "towels")
    (tmp_path / "mine.py").write_text(
        "from gato.data_pipelines.dataset import DatasetSpec\n"
        f"MINE = DatasetSpec(source={str(folder)!r}, options={{'size': (32, 32)}})\n"
    )
    assert imported(tmp_path / "mine.py").episode(0).observations["images.top"].shape == (7, 32, 32, 3)


def test_concealed_frames_never_pass(tmp_path):
    """A decoder fills damage up from the neighbours and goes on; such frames must be refused, not imported."""
    file = tmp_path / "video.mp4"
    written = [np.roll(frame(0, step), 3 * step, axis=0) for step in range(12)]
    write_video(file, written)
    good = list(lerobot_video.frames(file, 0.0, 12, FPS, "here"))
    data = file.read_bytes()
    begin = data.index(b"mdat") + 4  # behind it the frames, their size before it
    end = begin - 8 + int.from_bytes(data[begin - 8 : begin - 4], "big")
    rng, concealed = np.random.default_rng(0), 0
    for _ in range(150):
        broken = bytearray(data)
        place = int(rng.integers(begin, end))
        for offset in range(min(8, end - place)):
            broken[place + offset] ^= int(rng.integers(256))
        file.write_bytes(broken)
        tolerant, flagged = tolerantly(file)
        try:
            read = list(lerobot_video.frames(file, 0.0, 12, FPS, "here"))
        except SourceError:
            if len(tolerant) == 12 and any(not np.array_equal(*pair) for pair in zip(tolerant, good, strict=True)):
                concealed += 1
        else:
            assert not flagged
            assert len(read) == 12
    assert concealed > 20  # wrong frames that a decoder with its usual settings gives


def tolerantly(file: Path) -> tuple[list[np.ndarray], bool]:
    """What a decoder with its usual settings makes of a video, and whether it marks a frame as damaged."""
    found, flagged = [], False
    try:
        with av.open(str(file)) as container:
            for image in container.decode(video=0):
                flagged |= image.is_corrupt
                found.append(image.to_ndarray(format="rgb24"))
    except av.error.FFmpegError:
        pass
    return found, flagged
