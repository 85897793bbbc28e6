"""Plain arrays, for data without a format: npz files with an episode each, or HDF5 files.

    observations/NAME   [T, ...] numbers, uint8 pictures [T, H, W, 1 or 3], or strings; or one string for all timesteps
    actions/NAME        [T, ...]; or a single array called ``actions``
    rewards             [T], optional (zeros without)
    terminated, truncated, success, ...   scalars, optional: how it ended, and metadata of the episode

An npz file has the same names as keys; nested leaves have a dot or a slash more. An HDF5 file holds them itself, or a
group for each of its episodes; scalars may also be attributes, of the episode or of the file. One file or a folder of
them is a source; episodes are read in the order of their names, numbers in them by value. Beside the data may stand
``spec.json`` (`spec_file`).
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.leaves import Leaves, check_rewards, control_spec, first_good, values_of
from gato.data_pipelines.readers.spec_file import GROUPS, read_spec
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

NPZ = ".npz"
HDF5 = (".h5", ".hdf5")
SUFFIXES = (NPZ, *HDF5)
LAYOUT = "see the layout in docs/data.md"


class ArraysReader:
    """See the module. ``path``: a file, or the folder of the files."""

    jpeg = ()

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf]) -> None:
        self._path = path
        files = [file for file in path.iterdir() if file.suffix in SUFFIXES] if path.is_dir() else [path]
        files.sort(key=lambda file: natural(file.name))
        if any(file.suffix == NPZ for file in files) and any(file.suffix in HDF5 for file in files):
            raise SourceError(f"{path}: holds both npz and HDF5 files; put them into two folders, they are two sources")
        # (file, group of an HDF5 file; "": the file itself)
        self._episodes: list[tuple[Path, str]] = []
        self.unreadable: list[SourceError] = []
        for file in files:
            try:
                groups = _groups(file)
            except SourceError as error:
                self.unreadable.append(error)
                groups = [""]  # reading it raises the same: one bad file among many can be left out
            self._episodes += [(file, group) for group in groups]
        if not self._episodes:
            raise SourceError(f"{path}: no episode in it; {LAYOUT}")
        self.name = path.name if path.is_dir() else path.stem
        spec_file = (path if path.is_dir() else path.parent) / "spec.json"
        declared, self.metadata = read_spec(spec_file)
        self.spec = self._infer({**declared, **leaves})
        extra = [spec_file] if spec_file.exists() else []
        self.identity = identity_of([*files, *extra], sorted(map(repr, leaves.items())))

    def __len__(self) -> int:
        return len(self._episodes)

    def where(self, index: int, number: int = 0) -> str:
        file, group = self._episodes[index]
        return f"{file}: episode {group!r}" if group else str(file)

    def read(self, index: int) -> Iterator[Episode]:
        where = self.where(index)
        arrays = self._load(index)
        groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
        rewards = arrays.pop("rewards", None)
        timed = {name: value for name, value in arrays.items() if name.partition(".")[0] in GROUPS and value.ndim}
        if rewards is not None:
            rewards = _rewards(rewards, where)
            check_rewards(rewards, timed, where)
        else:
            steps = next((len(value) for name, value in timed.items() if name.startswith("actions.")), 0)
            rewards = np.zeros(steps, np.float32)
        about = {}
        for name, value in arrays.items():
            group, _, path = name.partition(".")
            if group not in GROUPS:
                about[name] = value
                continue
            leaf = getattr(self.spec, group).get(path)
            if leaf is None:
                if name in self._left_out:
                    continue
                raise SourceError(f"{where}: has {name}, which {self._model} has not; every episode needs the same")
            if leaf.modality == "text" and value.ndim == 0:
                value = np.full(len(rewards), value)
            groups[group][path] = values_of(value, leaf, f"{where}: {name}")
        for group in GROUPS:
            missing = set(getattr(self.spec, group)) - set(groups[group])
            if missing:
                raise SourceError(f"{where}: lacks {group}.{min(missing)}, which {self._model} has")
        file, name = self._episodes[index]
        episode_id = f"{file.stem}/{name}" if name and self._path.is_dir() else name or file.stem
        yield Episode(
            groups["observations"],
            groups["actions"],
            rewards,
            terminated=bool(about.pop("terminated", True)),
            truncated=bool(about.pop("truncated", False)),
            metadata={"episode_id": episode_id, **{k: _scalar(k, v, where) for k, v in about.items()}},
        )

    def _infer(self, given: Mapping[str, GivenLeaf]) -> EpisodeSpec:
        model, arrays = first_good(len(self), lambda index: (self.where(index), self._load(index)))
        self._model = model
        table = Leaves(given, str(self._path))
        found: dict[str, dict[str, LeafSpec]] = {name: {} for name in GROUPS}
        for name, value in sorted(arrays.items()):
            group, _, path = name.partition(".")
            if group not in GROUPS:
                continue
            leaf = table.leaf(name, value.dtype, value.shape[1:])
            if leaf is not None:
                found[group][path] = leaf
        table.check()
        self._left_out = {name for name, leaf in given.items() if leaf is None}
        if not found["actions"]:
            raise SourceError(f"{model}: no actions; {LAYOUT}")
        return control_spec(found, str(self._path))

    def _load(self, index: int) -> dict[str, np.ndarray]:
        """Name with dots -> array, of one episode."""
        where, (file, group) = self.where(index), self._episodes[index]
        arrays: dict[str, np.ndarray] = {}
        if file.suffix in HDF5:
            with _opened(file) as opened:
                if not group:
                    _check_depth(opened)
                episode = opened[group] if group else opened
                for node in (opened, episode):
                    _gather_attributes(node, arrays)
                _gather(episode, "", arrays)
        else:
            try:
                with zipfile.ZipFile(file) as opened:
                    arrays = {
                        name.removesuffix(".npy").replace("/", "."): _array(opened.read(name))
                        for name in opened.namelist()
                    }
            except (
                OSError,
                ValueError,
                KeyError,
                EOFError,
                NotImplementedError,  # zipfile: a way of compressing that it does not know
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


def _groups(file: Path) -> list[str]:
    """The episodes of a file: groups of an HDF5 file; [""]: it is one itself."""
    if file.suffix not in HDF5:
        return [""]
    with _opened(file) as opened:
        if any(name in opened for name in GROUPS):
            return [""]
        _check_depth(opened)
        # None is what h5py gives for a damaged group: an episode that cannot be read, not one that is not there.
        groups = [name for name, item in opened.items() if item is None or hasattr(item, "items")]
        return sorted(groups, key=natural)


def natural(name: str) -> tuple[list[Any], str]:
    """A key for sorting: "episode_2" before "episode_10", as they were recorded (`expert_return` relies on it)."""
    parts: list[Any] = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _array(file: bytes) -> np.ndarray:
    """The array of a member of an npz file, which was read as a whole so that zip compared its checksum.

    NumPy itself reads as far as the array's header says; a damaged header may say less, and nobody would notice.
    """
    stream = io.BytesIO(file)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise ValueError("an array is longer than its header says")
    return array


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


def _check_depth(file: Any) -> None:
    """Refuses a file whose episodes are not at its top (robomimic's): else a group is read as one."""
    if any(name in file for name in GROUPS):
        return
    for outer, group in file.items():
        if not hasattr(group, "items") or any(name in group for name in GROUPS):
            continue
        for inner, item in group.items():
            if hasattr(item, "items") and any(name in item for name in GROUPS):
                place = f"{outer}/{inner}"
                raise SourceError(
                    f"{file.filename}: its episodes ({place}, ...) must be groups at the top of the file, each with "
                    f"`observations` and `actions`; h5py moves them: file.move({place!r}, {inner!r})"
                )


def _gather_attributes(node: Any, arrays: dict[str, np.ndarray]) -> None:
    """Scalar attributes are metadata, as scalar arrays are; others describe the file (scales, shapes, ...)."""
    for name, value in node.attrs.items():
        scalar = np.asarray(value)
        if scalar.ndim == 0 and scalar.dtype.kind in "biufSU" and name.partition(".")[0] not in (*GROUPS, "rewards"):
            arrays[name] = scalar


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
    scalar = value.item()
    return scalar.decode(errors="replace") if isinstance(scalar, bytes) else scalar
