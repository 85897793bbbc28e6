"""Plain arrays, for data without a format: a folder of npz files, or an HDF5 file with a group for each episode.

    observations/NAME   [T, ...] numbers, uint8 pictures [T, H, W, 1 or 3], or strings; or one string for all timesteps
    actions/NAME        [T, ...]; or a single array called ``actions``
    rewards             [T], optional (zeros without)
    terminated, truncated, success, ...   scalars, optional: how it ended, and metadata of the episode

An npz file has the same names as keys; nested leaves have a dot or a slash more. Beside the data may stand
``spec.json``:

    {"observations": {"NAME": {"modality": "discrete", "values": 4}}, "actions": {...}, "metadata": {"task": "..."}}
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.leaves import Leaves, control_spec, values_of
from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

GROUPS = ("observations", "actions")
HDF5 = (".h5", ".hdf5")
LAYOUT = "see the layout in docs/data.md"


class ArraysReader:
    """See the module. ``path``: the folder of npz files, or the HDF5 file."""

    jpeg = ()

    def __init__(self, path: Path, leaves: Mapping[str, LeafSpec | None]) -> None:
        self._path = path
        if path.suffix in HDF5:
            self._files, folder = [path], path.parent
            with _opened(path) as file:
                self._episodes = sorted(name for name, item in file.items() if hasattr(item, "items"))
        else:
            self._files, folder = sorted(path.glob("*.npz")), path
            self._episodes = [file.name for file in self._files]
        if not self._episodes:
            what = "group" if path.suffix in HDF5 else "npz file"
            raise SourceError(f"{path}: no {what} with an episode in it; {LAYOUT}")
        self.name = path.stem if path.suffix in HDF5 else path.name
        spec_file = folder / "spec.json"
        declared, self.metadata = _read_spec(spec_file)
        self.spec = self._infer({**declared, **leaves})
        extra = [spec_file] if spec_file.exists() else []
        self.identity = identity_of([*self._files, *extra], sorted(map(repr, leaves.items())))

    def __len__(self) -> int:
        return len(self._episodes)

    def read(self, index: int) -> Iterator[Episode]:
        where = self._where(index)
        arrays = self._load(index)
        groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
        rewards = arrays.pop("rewards", None)
        timed = [rewards, *(value for name, value in arrays.items() if name.startswith("actions"))]
        steps = next((len(value) for value in timed if value is not None and value.ndim), 0)
        about = {}
        for name, value in arrays.items():
            group, _, path = name.partition(".")
            if group not in GROUPS:
                about[name] = value
                continue
            leaf = getattr(self.spec, group).get(path)
            if leaf is None:
                if f"{group}.{path}" in self._left_out:
                    continue
                raise SourceError(
                    f"{where}: has {name!r}, which the first episode has not; every episode needs the same"
                )
            if leaf.modality == "text" and value.ndim == 0:
                value = np.full(steps, value)
            groups[group][path] = values_of(value, leaf, f"{where}: {name}")
        for group in GROUPS:
            missing = set(getattr(self.spec, group)) - set(groups[group])
            if missing:
                raise SourceError(f"{where}: lacks {group}.{min(missing)}, which the first episode has")
        episode = Episode(
            groups["observations"],
            groups["actions"],
            np.zeros(steps, np.float32) if rewards is None else _rewards(rewards, where),
            terminated=bool(about.pop("terminated", True)),
            truncated=bool(about.pop("truncated", False)),
            metadata={
                "episode_id": Path(self._episodes[index]).stem,
                **{k: _scalar(k, v, where) for k, v in about.items()},
            },
        )
        yield episode

    def _infer(self, given: Mapping[str, LeafSpec | None]) -> EpisodeSpec:
        table = Leaves(given, str(self._path))
        found: dict[str, dict[str, LeafSpec]] = {name: {} for name in GROUPS}
        for name, value in sorted(self._load(0).items()):
            group, _, path = name.partition(".")
            if group not in GROUPS:
                continue
            leaf = table.leaf(name, value.dtype, value.shape[1:])
            if leaf is not None:
                found[group][path] = leaf
        table.check_all_used()
        self._left_out = {name for name, leaf in given.items() if leaf is None}
        if not found["actions"]:
            raise SourceError(f"{self._where(0)}: no actions; {LAYOUT}")
        return control_spec(found, str(self._path))

    def _load(self, index: int) -> dict[str, np.ndarray]:
        """Name with dots -> array, of one episode."""
        where = self._where(index)
        if self._path.suffix in HDF5:
            arrays: dict[str, np.ndarray] = {}
            with _opened(self._path) as file:
                _gather(file[self._episodes[index]], "", arrays)
        else:
            try:
                with np.load(self._files[index], allow_pickle=False) as file:
                    arrays = {name.replace("/", "."): file[name] for name in file.files}
            except (
                OSError,
                ValueError,
                KeyError,
                EOFError,
                NotImplementedError,
                zipfile.BadZipFile,
                zlib.error,
            ) as error:
                raise SourceError(f"{where}: cannot be read: {str(error) or type(error).__name__}") from error
        if "actions" in arrays:
            arrays["actions.action"] = arrays.pop("actions")
        for name in list(arrays):
            if name.partition(".")[0] in GROUPS and arrays[name].dtype.kind not in "SUO" and arrays[name].ndim < 1:
                raise SourceError(f"{where}: {name} is a single number; leaves have one value for each timestep")
        return arrays

    def _where(self, index: int) -> str:
        if self._path.suffix in HDF5:
            return f"{self._path}: episode {self._episodes[index]!r}"
        return str(self._files[index])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = require("h5py", "HDF5")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def _gather(node: Any, prefix: str, arrays: dict[str, np.ndarray]) -> None:
    for name, item in node.items():
        if item is None:
            raise ValueError(f"{prefix}{name} leads nowhere")
        if hasattr(item, "items"):
            _gather(item, f"{prefix}{name}.", arrays)
        else:
            value = item.asstr()[()] if item.dtype.kind == "O" else item[()]
            arrays[f"{prefix}{name}"] = np.asarray(value)


def _read_spec(file: Path) -> tuple[dict[str, LeafSpec], dict[str, Any]]:
    if not file.exists():
        return {}, {}
    try:
        data = json.loads(file.read_text())
        leaves = {
            f"{group}.{path}": LeafSpec.from_json(leaf)
            for group in GROUPS
            for path, leaf in data.get(group, {}).items()
        }
        return leaves, dict(data.get("metadata", {}))
    except (ValueError, TypeError, AttributeError, SpecError) as error:
        raise SourceError(f"{file}: {error}; {LAYOUT}") from error


def _rewards(values: np.ndarray, where: str) -> np.ndarray:
    rewards = np.asarray(values, np.float32)
    if rewards.ndim != 1:
        raise SourceError(f"{where}: rewards have shape {rewards.shape} instead of [T]")
    return rewards


def _scalar(name: str, value: np.ndarray, where: str) -> Any:
    if value.ndim:
        raise SourceError(
            f"{where}: {name!r} is neither observations/..., actions/... nor rewards, and no scalar to be metadata"
        )
    return value.item()
