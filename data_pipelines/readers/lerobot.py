"""LeRobot data sets, versions 2.0, 2.1 and 3.0: parquet tables and mp4 videos, without torch.

``observation.NAME`` becomes the leaf ``NAME``, ``action`` the action; the task's words become the text leaf ``task``.
The range of the actions is the one that the data set's statistics state, and every value is checked against it. Videos
are decoded once and become JPEG files (quality 95, 4:4:4), in the size of the video or ``options={"size": (H, W)}``:
random access into a video costs far more.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines import jpeg
from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import lerobot_meta, pictures
from gato.data_pipelines.readers.leaves import Leaves, control_spec, values_of
from gato.data_pipelines.readers.lerobot_video import frames
from gato.tokenizers.spec import LeafSpec

OBSERVATION, ACTION, TASK = "observation.", "action", "task"
REWARD, SUCCESS = "next.reward", "next.success"


class LeRobotReader:
    """See the module. ``path``: the folder that holds ``meta/info.json``."""

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf], size: tuple[int, int] | None = None) -> None:
        self._meta = lerobot_meta.load(path)
        self._size = (size[0], size[1]) if size else None
        self.name = path.name
        table = Leaves(leaves, str(path))
        found: dict[str, dict[str, LeafSpec]] = {"observations": {}, "actions": {}}
        self._columns: dict[str, str] = {}  # "observations.PATH" -> feature
        for feature, about in self._meta.features.items():
            group, leaf_path = _leaf_of(feature)
            if not group:
                continue
            name = f"{group}.{leaf_path}"
            visual = about["dtype"] in ("video", "image")
            low, high = self._meta.ranges.get(feature, (None, None)) if group == "actions" else (None, None)
            shape = self._shape(about) if visual else _vector(about["shape"])
            kind = str if about["dtype"] == "string" else np.uint8 if visual else np.dtype(about["dtype"])
            leaf = table.leaf(name, kind, shape, low=low, high=high, image=visual)
            if leaf is not None:
                found[group][leaf_path] = leaf
                self._columns[name] = feature
        if self._meta.tasks:
            leaf = table.leaf(f"observations.{TASK}", str, ())
            if leaf is not None:
                found["observations"][TASK] = leaf
        table.check()
        if not found["actions"]:
            raise SourceError(f"{path}: no feature called action")
        self.spec = control_spec(found, str(path))
        self.jpeg = tuple(p for p, leaf in self.spec.observations.items() if leaf.modality == "image")
        self.unreadable = [error for episode in self._meta.episodes if (error := episode.missing()) is not None]
        self._numbers = {episode.index for episode in self._meta.episodes}
        self.metadata = {"dataset": self.name, "fps": self._meta.fps, "embodiment": self._meta.robot, "agent": "human"}
        self.identity = identity_of(self._meta.files, self._size, sorted(map(repr, leaves.items())))

    def __len__(self) -> int:
        return len(self._meta.episodes)

    def where(self, index: int, number: int = 0) -> str:
        about = self._meta.episodes[index]
        return f"{about.data}: episode {about.index}"

    def read(self, index: int) -> Iterator[Episode]:
        about, where = self._meta.episodes[index], self.where(index)
        missing = about.missing()
        if missing is not None:
            raise missing
        rows = self._rows(about)
        groups: dict[str, dict[str, Any]] = {"observations": {}, "actions": {}}
        for group in groups:
            for path, leaf in getattr(self.spec, group).items():
                name = f"{group}.{path}"
                if name not in self._columns:
                    texts = [self._meta.tasks.get(int(number)) for number in rows[lerobot_meta.TASK_INDEX]]
                    if None in texts:
                        raise SourceError(f"{where}: a task_index that meta/tasks does not name")
                    groups[group][path] = texts
                elif leaf.modality == "image":
                    groups[group][path] = self._pictures(about, self._columns[name], rows, leaf, f"{where}: {name}")
                else:
                    raw = rows[self._columns[name]]
                    groups[group][path] = values_of(_stacked(raw, f"{where}: {name}"), leaf, f"{where}: {name}")
        rewards = np.asarray(rows.get(REWARD, np.zeros(about.length)), np.float32).reshape(about.length)
        success = rows.get(SUCCESS)
        metadata: dict[str, Any] = {"episode_id": str(about.index)}
        if success is not None:
            metadata["success"] = bool(np.any(np.asarray(success)))
        yield Episode(groups["observations"], groups["actions"], rewards, metadata=metadata)

    def _rows(self, about: lerobot_meta.EpisodeFiles) -> dict[str, list[Any]]:
        table, numbers, present = _table(about.data, about.data.stat().st_mtime_ns)
        where = f"{about.data}: episode {about.index}"
        strange = present - self._numbers
        if strange:
            raise SourceError(f"{about.data}: has rows of episode {min(strange)}, which meta/ does not list")
        chosen = np.flatnonzero(numbers == about.index)
        if len(chosen) != about.length:
            raise SourceError(f"{where}: {len(chosen)} rows, but the meta data says {about.length}")
        if (np.diff(chosen) != 1).any():
            raise SourceError(f"{where}: its rows do not follow each other")
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        needed = {feature for feature in self._columns.values() if self._meta.features[feature]["dtype"] != "video"}
        needed |= {REWARD, SUCCESS} & set(self._meta.features)
        needed |= {lerobot_meta.TASK_INDEX} if TASK in self.spec.observations else set()
        missing = sorted(needed - set(table.column_names))
        if missing:
            raise SourceError(f"{where}: no column {missing[0]!r}")
        # What the description lost would be left out in silence.
        known = (REWARD, SUCCESS, lerobot_meta.TASK_INDEX)
        mine = {name for name in table.column_names if _leaf_of(name)[0] or name in known}
        unknown = sorted(mine - set(self._meta.features))
        if unknown:
            raise SourceError(f"{where}: a column {unknown[0]!r}, which meta/info.json does not list")
        # Only now Python values, of this episode: those of a whole file are many times its size.
        return lerobot_meta.columns_of(table.select(sorted(needed)).slice(first, last - first), about.data)

    def _pictures(
        self, about: lerobot_meta.EpisodeFiles, feature: str, rows: Mapping[str, list[Any]], leaf: LeafSpec, where: str
    ) -> list[bytes]:
        if self._meta.features[feature]["dtype"] == "image":
            files = [value["bytes"] if isinstance(value, dict) else value for value in rows[feature]]
            if any(not isinstance(file, bytes) for file in files):
                raise SourceError(f"{where}: pictures outside the table cannot be read")
            arrays: Iterator[np.ndarray] = (pictures.decode(file, f"{where}: step {i}") for i, file in enumerate(files))
        else:
            video, start = about.videos[feature]
            arrays = frames(video, start, about.length, self._meta.fps, where)
        encoded = [self._encode(array, leaf, where) for array in arrays]
        if len(encoded) != about.length:
            raise SourceError(f"{where}: {len(encoded)} frames, but the episode has {about.length} steps")
        return encoded

    def _encode(self, image: np.ndarray, leaf: LeafSpec, where: str) -> bytes:
        if image.shape != leaf.shape:
            if self._size is None:
                raise SourceError(f"{where}: a frame of {image.shape}, the spec says {leaf.shape}")
            image = pictures.fit(image, self._size)
        return jpeg.encode(image)

    def _shape(self, about: Mapping[str, Any]) -> tuple[int, ...]:
        shape = tuple(int(n) for n in about["shape"])
        if len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):  # some versions list channels first
            shape = (shape[1], shape[2], shape[0])
        return (*self._size, 3) if self._size else shape


def _leaf_of(feature: str) -> tuple[str, str]:
    if feature.startswith(OBSERVATION):
        return "observations", feature.removeprefix(OBSERVATION)
    if feature == ACTION or feature.startswith(f"{ACTION}."):
        return "actions", feature.removeprefix(f"{ACTION}.")
    return "", ""


def _vector(shape: list[int]) -> tuple[int, ...]:
    return () if list(shape) == [1] else tuple(int(n) for n in shape)


def _stacked(raw: list[Any], where: str) -> Any:
    if raw and isinstance(raw[0], str):
        return raw
    try:
        return np.asarray(raw, np.float64 if isinstance(np.ravel(raw[0])[0], float) else None)
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where}: values of different lengths") from error


@functools.lru_cache(maxsize=2)
def _table(file: Path, modified: int) -> tuple[Any, np.ndarray, set[int]]:
    """The Arrow table of a file, the episode of each row, and the episodes that have rows."""
    table = lerobot_meta.open_table(file)
    numbers = table["episode_index"].to_numpy() if "episode_index" in table.column_names else np.zeros(0)
    if numbers.dtype.kind not in "iu":
        raise SourceError(f"{file}: no column episode_index of whole numbers")
    return table, numbers, set(np.unique(numbers).tolist())
