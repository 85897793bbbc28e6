"""Minari data sets (HDF5 and Arrow), read with its own library and checked: nothing is when one is written.

An episode of T actions has T+1 observations; the last one has no action and is left out. Images are usually JPEG
inside: what comes out of them is kept as it is.
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
from gato.data_pipelines.store import first_line

GROUPS = ("observations", "actions")


class MinariReader:
    """See the module. ``path``: the data set's folder, or its ``data`` folder."""

    jpeg = ()

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf]) -> None:
        storage = require("minari.dataset.minari_storage", "Minari data sets")
        self._folder = path / "data" if (path / "data").is_dir() else path
        try:
            self._storage = storage.MinariStorage.read(self._folder)
            metadata = self._storage.metadata
            self._count = int(self._storage.total_episodes)
        except Exception as error:  # h5py, pyarrow, json and minari raise many kinds
            raise SourceError(f"{self._folder}: cannot be read: {first_line(error)}") from error
        if not self._count:
            raise SourceError(f"{self._folder}: no episode in it")
        self.name = str(metadata.get("dataset_id", path.name))
        table = Leaves(leaves, str(path))
        observations = dict(spaces.leaves_of(self._storage.observation_space, "observations", "observation", table))
        actions = dict(spaces.leaves_of(self._storage.action_space, "actions", "action", table))
        table.check_all_used()
        self.spec = control_spec({"observations": observations, "actions": actions}, str(path))
        self.metadata = {"dataset": self.name, "agent": str(metadata.get("algorithm_name", "dataset"))}
        files = [file for file in self._folder.rglob("*") if file.is_file()]
        self.identity = identity_of(files, sorted(map(repr, leaves.items())))

    def __len__(self) -> int:
        return self._count

    def where(self, index: int, number: int = 0) -> str:
        return f"{self._folder}: episode {index}"

    def read(self, index: int) -> Iterator[Episode]:
        where = self.where(index)
        try:
            (raw,) = self._storage.get_episodes([index])
            rewards = np.asarray(raw["rewards"], np.float32)
            terminated, truncated = (bool(np.asarray(raw[name])[-1]) for name in ("terminations", "truncations"))
        except Exception as error:  # h5py, pyarrow and Pillow raise many kinds
            raise SourceError(f"{where}: cannot be read: {first_line(error)}") from error
        steps = len(rewards)
        groups: dict[str, dict[str, Any]] = {}
        for group, bare, expected in (("observations", "observation", steps + 1), ("actions", "action", steps)):
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
                groups[group][path] = values_of(arrays[path][:steps], leaf, place)
        yield Episode(
            groups["observations"],
            groups["actions"],
            rewards,
            terminated=terminated,
            truncated=truncated,
            metadata={"episode_id": str(index)},
        )
