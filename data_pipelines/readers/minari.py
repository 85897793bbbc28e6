"""Minari data sets (HDF5 and Arrow), read with its own library and checked: nothing is when one is written.

An episode of T actions has T+1 observations; the last one has no action and is left out. Images are usually JPEG
inside: what comes out of them is kept as it is. Discrete values count from 0 wherever their space starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import spaces
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.leaves import Leaves, control_spec, values_of
from gato.data_pipelines.readers.tfds_records import read_json
from gato.data_pipelines.store import first_line

HDF5 = "main_data.hdf5"
_BARE = {"observations": "observation", "actions": "action"}  # names of leaves that have none


class MinariReader:
    """See the module. ``path``: the data set's folder, or its ``data`` folder."""

    jpeg = ()

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf]) -> None:
        storage = require("minari.dataset.minari_storage", "Minari data sets")
        self._folder = path / "data" if (path / "data").is_dir() else path
        metadata = read_json(self._folder / "metadata.json")
        there = self._there(metadata.get("data_format") == "hdf5")
        try:
            self._storage = storage.MinariStorage.read(self._folder)
            self._count = int(self._storage.total_episodes)
        except Exception as error:  # gymnasium, h5py, pyarrow and minari raise many kinds
            why = f"no {error}" if isinstance(error, KeyError) else first_line(error)
            raise SourceError(f"{self._folder}/metadata.json: does not describe a data set: {why}") from error
        if not self._count:
            raise SourceError(f"{self._folder}: no episode in it")
        stated = f"metadata.json says total_episodes={self._count}; copy the data set again"
        expected = set(range(self._count))
        if there - expected:
            raise SourceError(f"{self._folder}: has an episode {max(there)}, but {stated}")
        self.unreadable = [SourceError(f"{self.where(k)}: missing; {stated}") for k in sorted(expected - there)]
        self.name = str(metadata.get("dataset_id", path.name))
        table = Leaves(leaves, str(path))
        own = {"observations": self._storage.observation_space, "actions": self._storage.action_space}
        found = {group: dict(spaces.leaves_of(own[group], group, bare, table)) for group, bare in _BARE.items()}
        table.check()
        self.spec = control_spec(found, str(path))
        self._starts = {group: spaces.starts_of(own[group], bare) for group, bare in _BARE.items()}
        self.metadata = {"dataset": self.name, "agent": str(metadata.get("algorithm_name", "dataset"))}
        files = [file for file in self._folder.rglob("*") if file.is_file()]
        self.identity = identity_of(files, sorted(map(repr, leaves.items())))

    def __len__(self) -> int:
        return self._count

    def _there(self, hdf5: bool) -> set[int]:
        """Numbers of the episodes that are there: groups of the HDF5 file, or folders of Arrow files."""
        if not hdf5:
            return {int(entry.name) for entry in self._folder.iterdir() if entry.is_dir() and entry.name.isdigit()}
        file = self._folder / HDF5
        if not file.exists():
            raise SourceError(f"{file}: missing; copy the data set again")
        try:
            with require("h5py", "HDF5").File(file, "r") as opened:
                return {int(name.removeprefix("episode_")) for name in opened}
        except Exception as error:  # h5py raises many kinds
            raise SourceError(f"{file}: cannot be read: {first_line(error)}") from error

    def where(self, index: int, number: int = 0) -> str:
        return f"{self._folder}: episode {index}"

    def read(self, index: int) -> Iterator[Episode]:
        where = self.where(index)
        try:
            (raw,) = self._storage.get_episodes([index])
            rewards = np.asarray(raw["rewards"], np.float32)
            ends = {name: np.asarray(raw[name], bool) for name in ("terminations", "truncations")}
            (about,) = self._storage.get_episode_metadata([index])
        except Exception as error:  # h5py, pyarrow and Pillow raise many kinds
            why = f"no {error}" if isinstance(error, KeyError) else first_line(error)
            raise SourceError(f"{where}: cannot be read: {why}") from error
        steps = len(rewards)
        if about.get("total_steps", steps) != steps:
            raise SourceError(f"{where}: {steps} rewards, but its metadata says total_steps={about['total_steps']}")
        for name, values in ends.items():
            if len(values) != steps:
                raise SourceError(f"{where}: {name}: {len(values)} of them for {steps} rewards")
        groups: dict[str, dict[str, Any]] = {}
        for group, bare in _BARE.items():
            expected = steps + 1 if group == "observations" else steps
            arrays = spaces.arrays_of(raw[group], bare)
            groups[group] = {}
            for path, leaf in getattr(self.spec, group).items():
                place = f"{where}: {group}.{path}"
                if path not in arrays:
                    raise SourceError(f"{place}: missing")
                if len(arrays[path]) != expected:
                    raise SourceError(
                        f"{place}: {len(arrays[path])} values for {steps} rewards; Minari has {expected} of them"
                    )
                values = values_of(arrays[path][:steps], leaf, place)
                if leaf.modality == "discrete" and path in self._starts[group]:
                    values = values - self._starts[group][path]
                groups[group][path] = values
        yield Episode(
            groups["observations"],
            groups["actions"],
            rewards,
            terminated=bool(ends["terminations"][-1]),
            truncated=bool(ends["truncations"][-1]),
            metadata={"episode_id": str(index)},
        )
