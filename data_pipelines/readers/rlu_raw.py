"""RL Unplugged as it was published: gzip-compressed TFRecord files of tf.train.Example, one episode each.

Three layouts, told apart by their keys:

- control suite and locomotion: ``observation/NAME``, ``action``, ``reward``, ``discount``; the reward stands beside the
  observation that it led to, so it belongs to the step before;
- Atari: ``observations`` (PNG), ``actions``, ``unclipped_rewards``, beside the action that earned them;
- DeepMind Lab: ``observations_pixels`` (PNG), ``observations_action`` (one-hot), ``observations_reward``, ``actions``,
  ``rewards``.

The last step only shows where the episode ended; it is left out. A gzip file can only be read from its beginning, so a
whole file is one record of an import; of its episodes a bad one can be left out alone, unless the file is damaged.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import pictures
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.known import ATARI, DMLAB
from gato.data_pipelines.readers.leaves import Leaves, check_rewards, control_spec, first_good, values_of
from gato.data_pipelines.readers.tfds_records import HEADER, masked_crc
from gato.data_pipelines.store import first_line
from gato.tokenizers.spec import LeafSpec

SHARDS = "*-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"
_OBSERVATION = "observation/"
Values = dict[str, Any]  # "observations.PATH", "actions.PATH" -> arrays or lists of PNG files; "rewards"; metadata
Layout = Callable[[Mapping[str, Any], str], Values]


class RluRawReader:
    """See the module. ``path``: a folder of shards, or one of them."""

    jpeg = ()

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf]) -> None:
        self._files = [path] if path.is_file() else _shards(path)
        found = {index: error for index, file in enumerate(self._files) if (error := _unreadable(file)) is not None}
        self.unreadable = list(found.values())
        there = [index for index in range(len(self._files)) if index not in found]
        if not there:
            raise SourceError(f"{path}: no gzip-compressed shard called NAME-00000-of-00100 in it")
        self.name = path.name if path.is_dir() else path.parent.name
        self.identity = identity_of(self._files, sorted(map(repr, leaves.items())))
        self._layout, known, shapes = first_good(len(there), lambda number: self._model(there[number]))
        table = Leaves({**known, **leaves}, str(path))
        groups: dict[str, dict[str, LeafSpec]] = {"observations": {}, "actions": {}}
        for name, (dtype, shape, image) in shapes.items():
            group, _, leaf_path = name.partition(".")
            leaf = table.leaf(name, dtype, shape, image=image)
            if leaf is not None:
                groups[group][leaf_path] = leaf
        table.check()
        self.spec = control_spec(groups, str(path))
        self.metadata = {"dataset": f"rl_unplugged/{self.name}", "agent": "dataset"}

    def __len__(self) -> int:
        return len(self._files)

    def where(self, index: int, number: int = 0) -> str:
        return f"{self._files[index]}: record {number}"

    def read(self, index: int) -> Iterator[Episode | SourceError]:
        for number, example in enumerate(_examples(self._files[index])):
            try:
                yield self._episode(example, self.where(index, number))
            except SourceError as error:
                yield error

    def _episode(self, example: Mapping[str, Any], where: str) -> Episode:
        values = self._layout(example, where)
        names = [f"{group}.{path}" for group in ("observations", "actions") for path in getattr(self.spec, group)]
        for name in names:
            if name not in values:
                raise SourceError(f"{where}: no {name}")
        check_rewards(values["rewards"], {name: values[name] for name in names}, where)
        steps = len(values["rewards"]) - 1
        if steps < 1:
            raise SourceError(f"{where}: an episode without a step")
        groups: dict[str, dict[str, Any]] = {"observations": {}, "actions": {}}
        for name in names:
            group, _, path = name.partition(".")
            leaf = getattr(self.spec, group)[path]
            if len(values[name]) != steps + 1:
                raise SourceError(f"{where}: {name}: {len(values[name])} values, but {steps + 1} steps")
            make = pictures.images if leaf.modality == "image" else values_of
            groups[group][path] = make(values[name][:steps], leaf, f"{where}: {name}")
        return Episode(
            groups["observations"],
            groups["actions"],
            np.asarray(values["rewards"][:steps], np.float32),
            terminated=values["terminal"],
            truncated=not values["terminal"],
            metadata={"episode_id": values["id"]},
        )

    def _model(self, index: int) -> tuple[Layout, dict[str, LeafSpec], dict[str, tuple[Any, tuple[int, ...], bool]]]:
        """Of the first good episode of a file: layout, what is known of it, and (dtype, shape, image) of each leaf."""
        bad: SourceError | None = None
        for number, example in enumerate(_examples(self._files[index])):
            where = self.where(index, number)
            try:
                layout, known = _layout(example, where)
                values = layout(example, where)
                leaves = {
                    name: value for name, value in values.items() if name.startswith(("observations.", "actions."))
                }
                return layout, known, {name: _shape(value, f"{where}: {name}") for name, value in leaves.items()}
            except SourceError as error:
                bad = bad or error
        raise bad or SourceError(f"{self._files[index]}: no record in it")


def is_gzip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def _shards(folder: Path) -> list[Path]:
    """The files that belong there, those that are missing among them: the name of one says how many there are."""
    found = set(folder.glob(SHARDS))
    for start, count in {(file.name[: -len("00000-of-00100")], file.name[-5:]) for file in found}:
        found |= {folder / f"{start}{number:05d}-of-{count}" for number in range(int(count))}
    return sorted(found)


def _unreadable(file: Path) -> SourceError | None:
    """The error of a shard that is not there, or is no gzip file: one of no bytes would pass for one of no episodes."""
    if not file.exists():
        count = int(file.name.rpartition("-")[2])
        return SourceError(f"{file}: missing; by their names there are {count} shards, copy the data set again")
    return None if is_gzip(file) else SourceError(f"{file}: no gzip file; copy it again")


def _examples(file: Path) -> Iterator[Mapping[str, Any]]:
    """The features of each record, as lists. Raises SourceError where the file is damaged or missing."""
    unreadable = _unreadable(file)
    if unreadable is not None:
        raise unreadable
    proto = require("tensorflow_datasets.core.example_parser", "RL Unplugged files").tf_example_pb2
    number = 0
    try:
        with gzip.open(file, "rb") as stream:
            while header := stream.read(HEADER.size):
                if len(header) < HEADER.size:
                    raise SourceError(f"{file}: ends in the middle of record {number}; copy it again")
                length, check = HEADER.unpack(header)
                if check != masked_crc(header[:8]):
                    raise SourceError(f"{file}: record {number}: damaged (CRC of its length); copy it again")
                data, end = stream.read(length), stream.read(4)
                if len(data) < length or len(end) < 4 or struct.unpack("<I", end)[0] != masked_crc(data):
                    raise SourceError(f"{file}: record {number}: damaged (its CRC differs); copy it again")
                features = proto.Example.FromString(data).features.feature
                yield {key: getattr(value, value.WhichOneof("kind")).value for key, value in features.items()}
                number += 1
    except SourceError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{file}: record {number}: {first_line(error)}; copy it again") from error
    except Exception as error:  # protobuf's DecodeError
        raise SourceError(f"{file}: record {number}: no tf.train.Example: {first_line(error)}") from error


def _shape(value: Any, where: str) -> tuple[Any, tuple[int, ...], bool]:
    """(dtype, shape of one timestep, whether they are pictures) of the values of a leaf."""
    if isinstance(value, list):
        return np.uint8, pictures.decode(value[0], where).shape, True
    return value.dtype, value.shape[1:], False


def _layout(example: Mapping[str, Any], where: str) -> tuple[Layout, dict[str, LeafSpec]]:
    if "unclipped_rewards" in example:
        return _atari, ATARI
    if "observations_pixels" in example:
        return _dmlab, DMLAB
    if "reward" in example and any(key.startswith(_OBSERVATION) for key in example):
        return _control, {}
    raise SourceError(f"{where}: none of RL Unplugged's layouts; it has {', '.join(sorted(example)[:8])}")


def _control(example: Mapping[str, Any], where: str) -> Values:
    rewards = np.asarray(_field(example, "reward", where), np.float32)
    steps = len(rewards)
    values: Values = {"rewards": np.append(rewards[1:], np.float32(0))}
    for key in sorted(example):
        if key.startswith(_OBSERVATION):
            values[f"observations.{key.removeprefix(_OBSERVATION).replace('/', '.')}"] = _rows(
                example[key], steps, f"{where}: {key}"
            )
    values["actions.action"] = _rows(_field(example, "action", where), steps, f"{where}: action")
    values["terminal"] = bool(_field(example, "discount", where)[-1] == 0)
    values["id"] = str(example.get("episode_id", [""])[0])
    return values


def _atari(example: Mapping[str, Any], where: str) -> Values:
    return {
        "observations.observation": list(_field(example, "observations", where)),
        "actions.action": np.asarray(_field(example, "actions", where), np.int64),
        "rewards": np.asarray(_field(example, "unclipped_rewards", where), np.float32),
        "terminal": bool(_field(example, "discounts", where)[-1] == 0),
        "id": f"{example.get('checkpoint_idx', [0])[0]}.{_field(example, 'episode_idx', where)[0]}",
    }


def _dmlab(example: Mapping[str, Any], where: str) -> Values:
    rewards = np.asarray(_field(example, "rewards", where), np.float32)
    one_hot = _rows(_field(example, "observations_action", where), len(rewards), f"{where}: observations_action")
    return {
        "observations.pixels": list(_field(example, "observations_pixels", where)),
        "observations.last_action": np.argmax(one_hot, axis=1),
        "observations.last_reward": np.asarray(_field(example, "observations_reward", where), np.float32),
        "actions.action": np.asarray(_field(example, "actions", where), np.int64),
        "rewards": rewards,
        "terminal": False,
        "id": str(_field(example, "episode_id", where)[0]),
    }


def _field(example: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in example or not len(example[name]):
        raise SourceError(f"{where}: no {name}")
    return example[name]


def _rows(flat: Any, steps: int, where: str) -> Any:
    """[steps, n] (or [steps]) of a flat list; pictures stay a list of files."""
    if len(flat) and isinstance(flat[0], bytes):
        return list(flat)
    array = np.asarray(flat, np.float32)
    if not steps or len(array) % steps:
        raise SourceError(f"{where}: {len(array)} values do not divide into {steps} steps")
    return array if len(array) == steps else array.reshape(steps, -1)
