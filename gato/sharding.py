"""Where arrays live: one mesh (data, fsdp, tensor) and one table from the names of array axes to the mesh's axes.

``data`` and ``fsdp`` both split the batch; ``fsdp`` also splits every large parameter (and its optimizer state) along
the model's width; ``tensor`` splits heads, feed-forward and vocabulary. On one device the mesh is 1 x 1 x 1 and
everything below is still used.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gato.model.config import ModelConfig, ModelError

AXES = ("data", "fsdp", "tensor")

# Axis of a parameter or an activation -> axes of the mesh. Every name that the model uses stands here.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": (),
    "features": (),  # the residual stream of activations
    "embed": ("fsdp",),  # the same axis, of parameters
    "vocabulary": ("tensor",),
    "heads": ("tensor",),
    "hidden": ("tensor",),
    "head_dim": (),
    "positions": (),
    "scale": (),  # of norms
    "layers": (),
    "kernel": (),
    "channels": (),
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or those given); one size may be -1: what the others leave.

    The axes are Auto: in this JAX the default is Explicit, where Linen's partitioning raises.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(data, fsdp, tensor, len(devices))
    # Not jax.make_mesh: it refuses sizes that cut a side of a TPU's torus, such as fsdp 8 on 16 x 16 chips of a v6e.
    places = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(places, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(data: int, fsdp: int, tensor: int, devices: int) -> dict[str, int]:
    """Axis -> size of a mesh over so many devices; one size may be -1. Raises `ModelError` where they do not fit."""
    sizes = [data, fsdp, tensor]
    asked = f"mesh (data {data}, fsdp {fsdp}, tensor {tensor})"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ModelError(f"{asked}: sizes are at least 1, and one of them may be -1")
    product = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and devices % product == 0:
        sizes[sizes.index(-1)] = devices // product
    elif -1 in sizes or product != devices:
        raise ModelError(f"{asked} does not fit {devices} device(s): the product of the sizes must be their number")
    return dict(zip(AXES, sizes, strict=True))


def partition(names: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The spec of an array whose axes carry these names; an axis that its mesh axes do not divide stays whole."""
    spec: list[tuple[str, ...] | None] = []
    for name, size in zip(names, shape, strict=True):
        axes = RULES[name] if name is not None else ()
        parts = 1
        for axis in axes:
            parts *= mesh.shape[axis]
        if size % parts:
            _say_whole(str(name), size, parts)
            axes = ()
        spec.append(axes or None)
    return PartitionSpec(*spec)


@functools.cache  # said once: many arrays have the same axis
def _say_whole(name: str, size: int, parts: int) -> None:
    logging.getLogger(__name__).warning(
        "the axis %r of size %d cannot be split over the mesh's %d devices along %s: each of them holds it whole",
        name,
        size,
        parts,
        " x ".join(RULES[name]),
    )


def constrain(x: jax.Array, mesh: Mesh | None, *names: str) -> jax.Array:
    """Pins an activation to its place, so that the compiler does not spread the width instead of the batch."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(names, x.shape, mesh)))


def param_shardings(config: ModelConfig, mesh: Mesh) -> Any:
    """A `NamedSharding` for every parameter, in the structure of `init_params`."""
    from gato.model.transformer import boxed_params  # the model imports this file

    def place(leaf: Any) -> NamedSharding:
        names, value = (leaf.names, leaf.value) if isinstance(leaf, nn.LogicallyPartitioned) else ((), leaf)
        names = tuple(names) + (None,) * (len(value.shape) - len(names))
        return NamedSharding(mesh, partition(names, value.shape, mesh))

    return jax.tree.map(place, boxed_params(config), is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def state_shardings(state: Any, params: Any, mesh: Mesh) -> Any:
    """Shardings of a training state: what mirrors a parameter lies where that parameter lies, the rest is replicated.

    Args:
      state: any pytree of arrays or shapes: parameters, optimizer moments (they carry the parameters' paths), counters.
      params: `param_shardings`. A leaf mirrors a parameter if its path ends with that parameter's path.
    """
    places = {_names(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(params)}
    depth = max(len(path) for path in places)

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(path)
        for size in range(min(depth, len(names)), 0, -1):
            sharding = places.get(names[-size:])
            if sharding is not None and len(sharding.spec) == len(leaf.shape):
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def abstract(shapes: Any, shardings: Any) -> Any:
    """A pytree of shapes and dtypes together with where they lie: what stands for arrays that need not be there."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of every array of a batch: the first axis, rows or groups of rows, is split. Both are multiples of the parts."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts `batch_sharding` splits a batch."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def hosted_groups(mesh: Mesh, groups: int) -> list[int]:
    """Which of the `groups` groups of a batch lie on devices of this process, ascending.

    Not always neighbours: a mesh follows the network of the devices, not the order of the hosts. And processes that
    share a part of the batch (a tensor axis across hosts) hold the same groups.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((groups,)).values()
    return sorted({group for place in places if place for group in range(*place[0].indices(groups))})


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
