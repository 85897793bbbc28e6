"""RLDS episodes in a prepared TFDS directory: RL Unplugged, D4RL, robomimic, Open X-Embodiment and many more.

A record is an episode; its ``steps`` have observation, action, reward, is_first, is_last, is_terminal. By the RLDS
convention the last step only shows where the episode ended: its action and reward mean nothing, so it is left out
(``options={"last_action": True}`` keeps it, for data sets that put a real action there). Images that are JPEG files
stay what they are. TensorFlow is not needed.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines import jpeg
from gato.data_pipelines.dataset import GivenLeaf, identity_of
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers import pictures
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.readers.known import known_leaves
from gato.data_pipelines.readers.leaves import Leaves, control_spec, first_good, stacked, values_of
from gato.data_pipelines.readers.tfds_records import Records, read_json
from gato.data_pipelines.store import first_line
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, flatten

# What a step may hold beside observation and action. Other keys (tags, infos, simulator states) are no part of what an
# agent sees; texts are instructions and are.
_OBSERVATION, _ACTION = "observation", "action"


class RldsReader:
    """See the module.

    Args:
      path: of the directory with ``features.json``, or one above it.
      leaves: what the user says about leaves.
      split: name of the split; "": the only one, or ``train``.
      last_action: whether the last step has a real action.
    """

    def __init__(self, path: Path, leaves: Mapping[str, GivenLeaf], split: str = "", last_action: bool = False) -> None:
        folder = prepared_folder(path)
        self._records = Records(folder, split)
        self.unreadable = self._records.unreadable
        self._keep_last = last_action
        self.name = self._records.name
        self._features = load_features(folder)
        if "steps" not in self._features:
            raise SourceError(f"{folder}: its records have no steps; documents are read with --format tfds")
        self._step = self._features["steps"].feature
        self._leaves: dict[str, tuple[str, Any]] = {}  # "observations.PATH" -> path in a step
        self._images: dict[str, LeafSpec] = {}
        self.spec = self._infer({**known_leaves(self.name), **leaves}, str(folder))
        self.jpeg = tuple(path for path, leaf in self._images.items() if self._is_jpeg(path))
        self.metadata = {"dataset": self.name, "agent": "dataset"}
        self.identity = identity_of(
            [*self._records.files, folder / "features.json"], split, last_action, sorted(map(repr, leaves.items()))
        )

    def __len__(self) -> int:
        return len(self._records)

    def where(self, index: int, number: int = 0) -> str:
        return self._records.where(index)

    def read(self, index: int) -> Iterator[Episode]:
        where = self.where(index)
        record = self._decode(index)
        steps = record.pop("steps")
        last = np.asarray([bool(step["is_last"]) for step in steps]) if steps and "is_last" in steps[0] else None
        if last is not None and last[:-1].any():
            raise SourceError(f"{where}: step {int(np.argmax(last))} is marked as the last, but {len(steps)} follow it")
        ended = bool(last is not None and last[-1])
        used = steps if self._keep_last or not ended else steps[:-1]
        if not used:
            raise SourceError(f"{where}: an episode without a step")
        groups: dict[str, dict[str, Any]] = {"observations": {}, "actions": {}}
        for name, (group, leaf) in self._where_leaves().items():
            raw = [_at(step, self._leaves[name]) for step in used]
            place = f"{where}: {name}"
            path = name.partition(".")[2]
            if leaf.modality == "image":
                groups[group][path] = pictures.images(raw, leaf, place, as_files=path in self.jpeg)
            else:
                groups[group][path] = values_of(raw if leaf.modality == "text" else stacked(raw, place), leaf, place)
        rewards = np.asarray([step.get("reward", 0.0) for step in used], np.float32).reshape(len(used))
        terminal = bool(steps[-1].get("is_terminal", ended))
        yield Episode(
            groups["observations"],
            groups["actions"],
            rewards,
            terminated=terminal,
            truncated=not terminal,
            metadata={"episode_id": str(index), **_metadata(record)},
        )

    @functools.cache  # noqa: B019 (one reader a process)
    def _where_leaves(self) -> dict[str, tuple[str, LeafSpec]]:
        found = {}
        for group in ("observations", "actions"):
            for path, leaf in getattr(self.spec, group).items():
                found[f"{group}.{path}"] = (group, leaf)
        return found

    def _decode(self, index: int) -> dict[str, Any]:
        """One record: the steps as a list of nested dictionaries, images as files."""
        where, data = self._records.where(index), self._records.read(index)
        try:
            record = dict(self._features.deserialize_example_np(data, decoders=skip_images(self._features)))
            record["steps"] = list(record["steps"])
        except Exception as error:  # protobuf, zlib and tfds raise many kinds
            why = _odd_field(data, self._features) or first_line(error)
            raise SourceError(f"{where}: does not match features.json: {why}") from error
        return record

    def _infer(self, given: Mapping[str, GivenLeaf], where: str) -> EpisodeSpec:
        table = Leaves(given, where)
        found: dict[str, dict[str, LeafSpec]] = {"observations": {}, "actions": {}}
        for group, key in (("observations", _OBSERVATION), ("actions", _ACTION)):
            if key not in self._step:
                raise SourceError(f"{where}: its steps have no {key}")
            for path, feature in _walk(self._step[key], key):
                self._add(table, found, group, path, feature, key)
        for key, feature in self._step.items():
            if type(feature).__name__ == "Text" or is_text(feature):
                self._add(table, found, "observations", key, feature, key)
        table.check()
        return control_spec(found, where)

    def _add(
        self, table: Leaves, found: dict[str, dict[str, LeafSpec]], group: str, path: str, feature: Any, key: str
    ) -> None:
        name = f"{group}.{path}"
        if table.left_out(name):
            return
        kind = type(feature).__name__
        shape = tuple(feature.shape)
        if kind == "Image" and None in shape:
            size = first_good(len(self), lambda index: pictures.size_of(self._first(index, (key, path))))
            shape = (*size, shape[2] or 3)
        if None in shape:
            raise SourceError(f"{table.where}: {name} varies in shape {shape}; leave it out: leaves={{{name!r}: None}}")
        if kind in ("Sequence", "Dataset"):
            # tfds' NumPy reader mixes the steps of a Sequence of fixed length inside a step.
            raise SourceError(
                f"{table.where}: {name} is a {kind} inside a step, which cannot be read without TensorFlow; "
                f"leave it out: leaves={{{name!r}: None}}"
            )
        leaf = table.leaf(
            name,
            object if is_text(feature) else feature.np_dtype,
            () if is_text(feature) else shape,
            values=getattr(feature, "num_classes", None),
            image=kind == "Image",
        )
        if leaf is None:
            return
        found[group][path] = leaf
        self._leaves[name] = (key, path)
        if leaf.modality == "image":
            self._images[path] = leaf

    def _is_jpeg(self, path: str) -> bool:
        place = self._leaves[f"observations.{path}"]
        first = first_good(len(self), lambda index: self._first(index, place))
        return isinstance(first, bytes) and jpeg.is_jpeg(first)

    def _first(self, index: int, place: tuple[str, str]) -> Any:
        """A value of the first step of a record."""
        steps = self._decode(index)["steps"]
        if not steps:
            raise SourceError(f"{self.where(index)}: an episode without a step")
        return _at(steps[0], place)


def prepared_folder(path: Path) -> Path:
    """The directory with ``features.json`` at or below ``path``. Raises SourceError if there is none, or several."""
    if (path / "features.json").exists():
        return path
    found = sorted(file.parent for file in path.glob("**/features.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise SourceError(f"{path}: no features.json in it or below; prepare the data set with tfds first")
    raise SourceError(f"{path}: holds several data sets; name one of {', '.join(map(str, found[:8]))}")


def load_features(folder: Path) -> Any:
    """The features of ``features.json``, without TensorFlow."""
    features = require("tensorflow_datasets.core.features", "RLDS and TFDS data")
    read_json(folder / "features.json")
    try:
        return features.FeatureConnector.from_config(str(folder))
    except Exception as error:
        raise SourceError(f"{folder}/features.json: {first_line(error)}") from error


def skip_images(features: Any) -> Any:
    """Decoders that leave images as files: tfds would decode damaged ones to grey."""
    tfds = require("tensorflow_datasets", "RLDS and TFDS data")

    def walk(feature: Any) -> Any:
        if type(feature).__name__ == "Image":
            return tfds.decode.SkipDecoding()
        if type(feature).__name__ == "Dataset":
            return walk(feature.feature)
        if type(feature).__name__ == "Sequence":
            return None
        if hasattr(feature, "items"):
            inner = {key: walk(child) for key, child in feature.items()}
            return {key: value for key, value in inner.items() if value is not None} or None
        return None

    return walk(features)


def _walk(feature: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(leaf path, feature) of a bare feature or of nested dictionaries of features."""
    if not hasattr(feature, "items"):
        yield path, feature
        return

    def tree(node: Any) -> Any:
        return {key: tree(child) for key, child in node.items()} if hasattr(node, "items") else node

    yield from flatten(tree(feature))


def is_text(feature: Any) -> bool:
    return type(feature).__name__ == "Text" or feature.np_dtype in (object, np.object_, str, bytes)


def _odd_field(data: bytes, features: Any) -> str:
    """The field of the steps that is not there, or for fewer or more steps than most, in words; "" if there is none."""
    parser = require("tensorflow_datasets.core.example_parser", "RLDS and TFDS data")
    known = parser.utils.flatten_nest_dict(features.get_serialized_info())
    steps = {}
    try:
        fields = parser.tf_example_pb2.Example.FromString(data).features.feature
        for name, info in known.items():
            if not name.startswith("steps/") or any(field.startswith(f"{name}/") for field in fields):
                continue  # not of a step, or ragged
            if name not in fields or fields[name].WhichOneof("kind") is None:
                return f"{name} is missing"
            values = getattr(fields[name], fields[name].WhichOneof("kind")).value
            # A step has as many values as its shape says, or one string of bytes.
            size = 1 if len(values) and isinstance(values[0], bytes) else math.prod(n for n in info.shape if n)
            steps[name] = len(values) / size
    except Exception:  # damaged beyond this question
        return ""
    usual = collections.Counter(steps.values()).most_common(1)[0][0] if steps else 0
    odd = next((name for name, count in steps.items() if count != usual), None)
    return f"{odd} has values for {steps[odd]:g} steps, the others for {usual:g}" if odd else ""


def _at(step: Mapping[str, Any], place: tuple[str, str]) -> Any:
    key, path = place
    value = step[key]
    if isinstance(value, Mapping):
        for part in path.split("."):
            value = value[part]
    return value


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of an episode, as JSON values."""
    found = {}
    for key, value in record.items():
        if isinstance(value, bytes):
            found[key] = value.decode(errors="replace")
        elif np.ndim(value) == 0 and not isinstance(value, Mapping):
            found[key] = np.asarray(value).item()
    return found
