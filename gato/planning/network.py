"""How fast the devices of a mesh axis can send to each other: which links of the machine the axis lies on.

A model: every link at its data sheet's rate, a ring around each side of the torus that the axis covers, all sides at
once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gato.planning.topology import Topology


def tpu_bandwidth(topology: Topology, devices: np.ndarray, axes: Sequence[int]) -> float:
    """Bytes/s that a device can send along these axes of the mesh, in one direction of each of its collective's rings.

    Args:
      devices: of the mesh, in its shape; they have `coords` of their chip.
      axes: of the mesh, by number.
    """
    chip = topology.chip
    sides = _sides(devices, axes)
    moved = [side for side, (count, _) in enumerate(sides) if count > 1]
    if not moved:
        return chip.memory_bandwidth  # the two cores of a chip share its memory
    rate = 0.0
    for side in moved:
        count, spread = sides[side]
        closed = count == topology.shape[side] and count >= chip.full_ring
        # Around a closed ring a device sends to both its neighbours; a part of a side is a line, there and back.
        rate += chip.link_bandwidth * (2 if closed else 1) * min(1.0, count / spread)
    return rate / chip.devices


def _sides(devices: np.ndarray, axes: Sequence[int]) -> list[tuple[int, int]]:
    """For each side of the torus: how many places a group has along it, and over how many it is spread."""
    index: list[Any] = [0] * devices.ndim
    for axis in axes:
        index[axis] = slice(None)
    group = np.array([device.coords for device in np.asarray(devices[tuple(index)]).reshape(-1)])
    return [(len(np.unique(side)), int(side.max() - side.min()) + 1) for side in group.T]


def gpu_bandwidth(topology: Topology, mesh_shape: Mapping[str, int], axes: Sequence[str]) -> float:
    """The same for GPUs, which fill the mesh node by node: the last axis moves fastest."""
    names = list(mesh_shape)
    per_node = topology.shape[1]
    stride = math.prod(mesh_shape[name] for name in names[names.index(axes[-1]) + 1 :])
    size = math.prod(mesh_shape[name] for name in axes)
    chip = topology.chip
    if per_node % (stride * size) == 0:
        return chip.link_bandwidth
    # What leaves a node goes through the network cards of all the group's members there; some groups that straddle two
    # nodes have only one in the second.
    whole = per_node % stride == 0 and stride * size % per_node == 0
    return min(chip.link_bandwidth, chip.node_bandwidth * (per_node // stride if whole else 1))
