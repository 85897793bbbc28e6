"""What an episode holds: the modality, shape and range of every leaf, checked once, when a source is opened.

Observations and actions are (possibly nested) dictionaries of leaves. Everywhere below, a leaf is named by its path:
the keys joined with dots, e.g. ``body.velocity``. Leaves stand in lexicographic order of their nested keys (Gato
section 2.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from gato.tokenizers.errors import SpecError

Modality = Literal["text", "image", "discrete", "continuous"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "discrete", "continuous")
Bound = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """One array of a timestep (without the leading time axis).

    Attributes:
      modality: decides the tokenizer.
      shape: of one timestep; ``()`` for a scalar and for text. Images are ``(height, width, channels)``.
      low, high: declared range of a continuous leaf, in the units of the environment; a number for all elements or a
        tuple with one number for each (row-major). ``None``: unbounded.
      values: number of values of a discrete leaf; they are ``0 .. values-1``.
      companded: whether a continuous leaf goes through the mu-law. ``None`` decides by Gato's rule: observations do,
        unless their declared range lies in [-1, 1]; actions never do.
    """

    modality: Modality
    shape: tuple[int, ...] = ()
    low: Bound | None = None
    high: Bound | None = None
    values: int | None = None
    companded: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        for name in ("low", "high"):
            bound = getattr(self, name)
            if bound is not None and not isinstance(bound, (int, float)):
                ends = np.asarray(bound, np.float64)
                object.__setattr__(self, name, tuple(ends.ravel().tolist()) if ends.ndim else float(ends))
        if self.modality not in MODALITIES:
            raise SpecError(f"modality {self.modality!r} is not one of {', '.join(MODALITIES)}")
        if self.modality == "discrete" and (self.values is None or self.values < 1):
            raise SpecError(f"a discrete leaf needs values >= 1 (its number of values), got {self.values}")
        if self.modality == "image" and (len(self.shape) != 3 or self.shape[2] not in (1, 3)):
            raise SpecError(f"an image leaf needs shape (height, width, 1 or 3), got {self.shape}")
        if (self.low is None) != (self.high is None):
            raise SpecError(f"a range needs both ends, got low={self.low}, high={self.high}")
        for name in ("low", "high"):
            bound = getattr(self, name)
            if isinstance(bound, tuple) and len(bound) not in (1, self.size):
                raise SpecError(
                    f"{name} has {len(bound)} values, a leaf of shape {self.shape} needs one or {self.size}"
                )
        if self.low is not None and not np.all(np.asarray(self.low) < np.asarray(self.high)):
            raise SpecError(f"low must be below high, got low={self.low}, high={self.high}")

    @property
    def size(self) -> int:
        """Number of scalars in one timestep (0 for text, whose length varies)."""
        return 0 if self.modality == "text" else int(np.prod(self.shape, dtype=np.int64))

    def bounds(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of a continuous action, float32 of the leaf's shape.

        Raises `SpecError`, which calls the action `path`, where no range was declared.
        """
        if self.modality != "continuous" or self.low is None or self.high is None:
            raise SpecError(f"action {path!r}: declare low and high, a continuous action needs its range")
        ends = [np.asarray(end, np.float32).ravel() for end in (self.low, self.high)]
        low, high = (np.broadcast_to(end, self.size).reshape(self.shape) for end in ends)
        return low, high

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None and v != ()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LeafSpec:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return LeafSpec(**fields)


Tree = Mapping[str, Any]


def flatten(tree: Tree, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yields ``("a.b", leaf)`` in lexicographic order of the nested keys, level by level."""
    for key in sorted(tree):
        if "." in key:
            raise SpecError(f"key {key!r}: a dot separates nested keys and cannot be part of one")
        value = tree[key]
        if isinstance(value, Mapping):
            yield from flatten(value, (*prefix, key))
        else:
            yield ".".join((*prefix, key)), value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """The leaves of one embodiment's (or one kind of document's) timestep.

    Attributes:
      observations: path -> leaf. Control: lexicographic order. Documents: the order given here is the tokens' order.
      actions: path -> leaf; empty for documents. An environment whose action is a bare array calls it ``action``.
      kind: ``control`` (observation, separator, action) or ``document`` (text, or image then text; one "timestep").
    """

    observations: dict[str, LeafSpec]
    actions: dict[str, LeafSpec]
    kind: Literal["control", "document"] = "control"

    @staticmethod
    def of(
        observations: Tree, actions: Tree | LeafSpec, kind: Literal["control", "document"] = "control"
    ) -> EpisodeSpec:
        """Builds a spec from nested dictionaries of `LeafSpec`."""
        if isinstance(actions, LeafSpec):
            actions = {"action": actions}
        if kind == "control":
            return EpisodeSpec(dict(flatten(observations)), dict(flatten(actions)), kind)
        return EpisodeSpec(dict(observations), dict(actions), kind)

    def to_json(self) -> dict[str, Any]:
        """JSON data; lists of [path, leaf] keep the order."""
        return {
            "kind": self.kind,
            "observations": [[path, leaf.to_json()] for path, leaf in self.observations.items()],
            "actions": [[path, leaf.to_json()] for path, leaf in self.actions.items()],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EpisodeSpec:
        return EpisodeSpec(
            {path: LeafSpec.from_json(leaf) for path, leaf in data["observations"]},
            {path: LeafSpec.from_json(leaf) for path, leaf in data["actions"]},
            data["kind"],
        )
