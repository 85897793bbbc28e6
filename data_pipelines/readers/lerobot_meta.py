"""What a LeRobot data set says of itself, in one form for all versions: features, tasks, and where episodes lie."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.text import json_line, lines
from gato.data_pipelines.readers.tfds_records import read_json
from gato.data_pipelines.store import first_line

TASK_INDEX = "task_index"  # of a row: which task's words it belongs to
VERSIONS = ("v2.0", "v2.1", "v3.0")


@dataclasses.dataclass(frozen=True)
class EpisodeFiles:
    """Where an episode lies; videos: feature -> (file, seconds of the episode's first frame)."""

    index: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]]

    def missing(self) -> SourceError | None:
        """The error of a file that is not there."""
        for file in (self.data, *(file for file, _ in self.videos.values())):
            if not file.exists():
                return SourceError(f"{file}: missing; episode {self.index} needs it, copy the data set again")
        return None


@dataclasses.dataclass(frozen=True)
class Meta:
    """features: name -> {dtype, shape, ...}; ranges: name -> (low, high) as the statistics state them."""

    fps: float
    robot: str
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]
    ranges: dict[str, tuple[Any, Any]]
    episodes: list[EpisodeFiles]
    files: list[Path]


def load(path: Path) -> Meta:
    """Reads ``meta/``. Raises SourceError if something is missing or another version."""
    info = read_json(path / "meta" / "info.json")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise SourceError(f"{path}/meta/info.json: version {version!r}; {', '.join(VERSIONS)} can be read")
    try:
        features = {name: dict(about) for name, about in info["features"].items()}
        for name, about in features.items():
            lacking = [word for word in ("dtype", "shape") if word not in about]
            if lacking:
                raise SourceError(f"{path}/meta/info.json: feature {name!r} has no {lacking[0]!r}")
        videos = [name for name, about in features.items() if about["dtype"] == "video"]
        old = version != "v3.0"
        episodes = list((_episodes_of_v2 if old else _episodes_of_v3)(path, info, videos))
        tasks = (_tasks_of_v2 if old else _tasks_of_v3)(path) if TASK_INDEX in features else {}
        found = Meta(
            fps=float(info["fps"]),
            robot=str(info.get("robot_type", "")),
            features=features,
            tasks=tasks,
            ranges=_ranges(path, features),
            episodes=episodes,
            files=sorted(file for file in path.rglob("*") if file.is_file()),
        )
        _check_episodes(path, episodes, int(info["total_episodes"]), int(info["total_frames"]))
    except KeyError as error:
        raise SourceError(f"{path}/meta: incomplete: no {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise SourceError(f"{path}/meta: incomplete: {type(error).__name__} {error}") from error
    if not 0 < found.fps < math.inf:
        raise SourceError(f"{path}/meta/info.json: fps={info['fps']!r} must be positive")
    return found


def _check_episodes(path: Path, episodes: list[EpisodeFiles], count: int, steps: int) -> None:
    """Raises SourceError if what is listed is not what ``info.json`` says, or cannot be."""
    if len(episodes) != count:
        raise SourceError(f"{path}/meta: {len(episodes)} episodes listed, info.json says {count}")
    if not episodes:
        raise SourceError(f"{path}: no episode in it")
    listed = sum(episode.length for episode in episodes)
    if listed != steps:
        raise SourceError(f"{path}/meta: the listed episodes have {listed} steps, info.json says {steps}")
    number, times = collections.Counter(episode.index for episode in episodes).most_common(1)[0]
    if times > 1:
        raise SourceError(f"{path}/meta: episode {number} is listed {times} times")


def open_table(file: Path) -> Any:
    """The Arrow table of a parquet file; the pages' checksums are verified. Raises SourceError."""
    parquet = require("pyarrow.parquet", "LeRobot data sets")
    try:
        return parquet.ParquetFile(file, page_checksum_verification=True).read()
    except Exception as error:  # pyarrow raises many kinds
        raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error


def columns_of(table: Any, file: Path) -> dict[str, list[Any]]:
    """Column -> Python values of an Arrow table. Raises SourceError."""
    try:
        return table.to_pydict()
    except Exception as error:  # e.g. text that is not UTF-8
        raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error


def _episodes_of_v2(path: Path, info: dict[str, Any], videos: list[str]) -> Iterator[EpisodeFiles]:
    file = path / "meta" / "episodes.jsonl"
    for number, line in enumerate(lines(file), 1):
        about = json_line(line, f"{file}: line {number}")
        index = int(about["episode_index"])
        words = {"episode_chunk": index // int(info["chunks_size"]), "episode_index": index}
        found = {key: (path / info["video_path"].format(video_key=key, **words), 0.0) for key in videos}
        yield EpisodeFiles(index, int(about["length"]), path / info["data_path"].format(**words), found)


def _episodes_of_v3(path: Path, info: dict[str, Any], videos: list[str]) -> Iterator[EpisodeFiles]:
    for file in sorted((path / "meta" / "episodes").rglob("*.parquet")):
        whole = open_table(file)
        # Beside the places stand dozens of columns of statistics.
        table = columns_of(whole.select([name for name in whole.column_names if not name.startswith("stats/")]), file)
        for row, index in enumerate(table["episode_index"]):
            place = {"chunk_index": table["data/chunk_index"][row], "file_index": table["data/file_index"][row]}
            found = {}
            for key in videos:
                at = {name: table[f"videos/{key}/{name}"][row] for name in ("chunk_index", "file_index")}
                video = path / info["video_path"].format(video_key=key, **at)
                found[key] = video, float(table[f"videos/{key}/from_timestamp"][row])
            yield EpisodeFiles(int(index), int(table["length"][row]), path / info["data_path"].format(**place), found)


def _tasks_of_v2(path: Path) -> dict[int, str]:
    file = path / "meta" / "tasks.jsonl"
    rows = [json_line(line, f"{file}: line {number}") for number, line in enumerate(lines(file), 1)]
    return {int(row["task_index"]): str(row["task"]) for row in rows}


def _tasks_of_v3(path: Path) -> dict[int, str]:
    file = path / "meta" / "tasks.parquet"
    table = columns_of(open_table(file), file)
    names = table.get("task") or table.get("__index_level_0__")  # pandas keeps the words as its index
    if names is None:
        raise SourceError(f"{file}: no column 'task'")
    return {int(number): str(name) for number, name in zip(table["task_index"], names, strict=True)}


def _ranges(path: Path, features: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """(low, high) of each number, from the statistics of the whole, or of the episodes."""
    whole, each = path / "meta" / "stats.json", path / "meta" / "episodes_stats.jsonl"
    if whole.exists():
        parts = [read_json(whole)]
    elif each.exists():
        parts = [json_line(line, str(each))["stats"] for line in lines(each)]
    else:
        return {}
    ranges = {}
    for name, about in features.items():
        known = [part[name] for part in parts if name in part]
        if known and about["dtype"] not in ("video", "image", "string"):
            low = np.min([np.ravel(np.asarray(part["min"], np.float64)) for part in known], axis=0)
            high = np.max([np.ravel(np.asarray(part["max"], np.float64)) for part in known], axis=0)
            # A joint that never moved needs a range all the same.
            ranges[name] = low, np.where(high > low, high, low + np.maximum(np.abs(low), 1.0) * 1e-3)
    return ranges
