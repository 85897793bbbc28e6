"""Gymnasium spaces as leaves: what an environment says about its observations and actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.leaves import Leaves
from gato.tokenizers.spec import LeafSpec, flatten


def leaves_of(space: Any, group: str, bare: str, table: Leaves) -> Iterator[tuple[str, LeafSpec]]:
    """(path, leaf) of a space, nested spaces flattened; leaves that the user left out are not among them.

    Args:
      group: "observations" or "actions". bare: name of the leaf if the space is a single one.
      table: what the user says.

    Raises:
      SourceError: a space that has no tokens (graphs, sequences of varying length).
    """
    for path, leaf in spaces_of(space, bare):
        name = f"{group}.{path}"
        found = _leaf(leaf, name, table)
        if found is not None:
            yield path, found


def spaces_of(space: Any, bare: str) -> Iterator[tuple[str, Any]]:
    """(path, space) of the leaves of a space."""
    tree = _tree(space)
    if isinstance(tree, dict):
        yield from flatten(tree)
    else:
        yield bare, tree


def starts_of(space: Any, bare: str) -> dict[str, Any]:
    """Path -> the least value, of spaces whose values begin elsewhere than at 0. Discrete leaves count from 0."""
    starts = {path: leaf.start for path, leaf in spaces_of(space, bare) if hasattr(leaf, "start")}
    return {path: start for path, start in starts.items() if np.any(start)}


def arrays_of(values: Any, bare: str) -> dict[str, Any]:
    """Path -> array of nested values of a space, as `spaces_of` names them."""
    if isinstance(values, (dict, tuple)):
        return dict(flatten(_plain(values)))
    return {bare: values}


def _tree(space: Any) -> Any:
    kind = type(space).__name__
    if kind == "Dict":
        return {str(key): _tree(child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return {str(number): _tree(child) for number, child in enumerate(space.spaces)}
    return space


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {str(key): _plain(child) for key, child in values.items()}
    if isinstance(values, tuple):
        return {str(number): _plain(child) for number, child in enumerate(values)}
    return values


def _leaf(space: Any, name: str, table: Leaves) -> LeafSpec | None:
    kind = type(space).__name__
    if kind == "Text":
        return table.leaf(name, str, ())
    if kind == "Discrete":
        return table.leaf(name, np.int64, (), values=int(space.n))
    if kind == "MultiDiscrete":
        return table.leaf(name, np.int64, space.shape, values=int(np.max(space.nvec)))
    if kind == "MultiBinary":
        return table.leaf(name, np.int64, space.shape, values=2)
    if kind == "Box":
        values = None
        if space.dtype.kind in "iu":
            low, high = int(np.min(space.low)), int(np.max(space.high))
            values = high + 1 if low >= 0 and high < 1024 else None
        return table.leaf(name, space.dtype, space.shape, values=values, low=space.low, high=space.high)
    raise SourceError(f"{table.where}: {name} is a {kind} space, which has no tokens; leave it out: {{{name!r}: None}}")
