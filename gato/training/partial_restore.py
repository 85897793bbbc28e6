"""Parameters of a checkpoint in another network: those that fit are taken over, the others keep their initial values.

The contract: values may change, never the structure, a shape, a dtype or a sharding of the new network's parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gato.training.checkpoint import (
    check_together,
    check_vocabulary,
    find_checkpoint,
    load_meta,
    load_params,
    saved_shapes,
)
from gato.training.checkpoint_meta import CheckpointError, CheckpointMeta

# Of the network's configuration, what does not say what its parameters mean.
MAY_DIFFER = ("local_positions", "stochastic_depth", "dropout", "remat", "dtype", "attention", "attention_block")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What became of every parameter; names are paths like ``params/embedding/table``.

    Attributes:
      checkpoint: where the values come from.
      taken: parameters with the checkpoint's values.
      initial: those that kept the values they had -> why.
      unused: those of the checkpoint that the new network has not, or did not want.
    """

    checkpoint: Path
    taken: tuple[str, ...]
    initial: dict[str, str]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """One line; `str` has one more for every parameter that stayed or is not used."""
        fresh = f"; fresh: {', '.join(self.initial)}" if self.initial else ""
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        arrays = len(self.taken) + len(self.initial)
        return f"{len(self.taken)} of {arrays} arrays from {self.checkpoint}{fresh}{unused}"

    def __str__(self) -> str:
        lines = [f"{self.checkpoint}: {len(self.taken)} of {len(self.taken) + len(self.initial)} parameters restored"]
        lines += [f"  {name} keeps its initial values: {why}" for name, why in self.initial.items()]
        lines += [f"  {name} of the checkpoint is not used" for name in self.unused]
        return "\n".join(lines)


def initial_params(path: Path | str, params: Any, meta: CheckpointMeta) -> tuple[Any, Restored]:
    """The parameters that a new run starts from: a checkpoint's, of the same network and vocabulary.

    Args:
      path: ``<run>`` or ``<run>/checkpoints/<step>``.
      params: those drawn from the seed. What the checkpoint has not in this shape (`model.local_positions`) stays.
      meta: of the new run.

    Raises:
      CheckpointError: no checkpoint there, a damaged one, or one of another vocabulary or network.
    """
    checkpoint = _same_everywhere(find_checkpoint(path))
    saved = load_meta(checkpoint)
    check_vocabulary(saved, meta.vocabulary, meta.text_model, checkpoint)
    names = (field.name for field in dataclasses.fields(meta.model) if field.name not in MAY_DIFFER)
    values = ((name, getattr(saved.model, name), getattr(meta.model, name)) for name in names)
    differences = [f"model.{name} {before} there, {now} here" for name, before, now in values if before != now]
    if differences:
        raise CheckpointError(
            f"{checkpoint}: is of another network, so a run cannot start from it: {'; '.join(differences)}. Give the "
            "checkpoint's own model"
        )
    return restore_params(checkpoint, params)


def _same_everywhere(checkpoint: Path) -> Path:
    """The one that process 0 found: the other run may be saving just now, and file systems may differ for a moment."""
    if jax.process_count() == 1 or not checkpoint.name.isdigit():
        return checkpoint
    return checkpoint.with_name(str(multihost_utils.broadcast_one_to_all(np.int64(int(checkpoint.name)))))


def restore_params(
    path: Path | str, params: Any, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Any, Restored]:
    """`params` with the values of a checkpoint wherever name and shape are the same. All processes of a run call it.

    Args:
      path: ``<run>`` or ``<run>/checkpoints/<step>``.
      params: arrays of the new network, where they belong; values of another dtype are converted to theirs.
      wanted: says for a name whether to take the checkpoint's values.

    Raises:
      CheckpointError: no checkpoint there, a damaged one, or one in which nothing fits.
    """
    checkpoint = find_checkpoint(path)
    check_together(checkpoint, ("params",))
    saved, ours = _by_name(saved_shapes(checkpoint)), _by_name(params)
    initial = {}
    for name, array in ours.items():
        if name not in saved:
            initial[name] = "not in the checkpoint"
        elif not wanted(name):
            initial[name] = "not asked for"
        elif tuple(saved[name].shape) != array.shape:
            initial[name] = f"{tuple(saved[name].shape)} in the checkpoint, {array.shape} here"
    taken = tuple(name for name in ours if name not in initial)
    if not taken:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(initial.items())[:3])
        raise CheckpointError(f"{checkpoint}: none of its parameters fits the network ({reasons})")
    asked: dict[str, Any] = {}
    for name in taken:
        *folders, last = name.split("/")
        place = asked
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = jax.ShapeDtypeStruct(ours[name].shape, ours[name].dtype, sharding=ours[name].sharding)
    loaded = _by_name(load_params(checkpoint, asked))
    merged = jax.tree_util.tree_map_with_path(lambda path, array: loaded.get(_name(path), array), params)
    unused = tuple(name for name in saved if name not in loaded)
    return merged, Restored(checkpoint, taken, initial, unused)


def _by_name(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
