"""What the devices of a compiled step send each other: kind, bytes, and the axes of the mesh that it runs over."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from gato.planning.hlo import Instruction, Program, called_by, shape_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_LISTED = re.compile(r"\breplica_groups=\{(\{[\d,{} ]*\})\}")
_COUNTED = re.compile(r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
# Axes of a mesh of the compiler's own, over devices in the order of an iota that is reshaped and transposed.
_NAMED = re.compile(
    r"\breplica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_PAIRS = re.compile(r"\bsource_target_pairs=\{(\{[\d,{} ]*\})\}")
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction of the program.

    Attributes:
      axis: of the mesh, e.g. ``fsdp`` or ``data+fsdp``.
      group: devices that take part together.
      bytes: that each device sends in one step: of a full array of V bytes among n devices V (n-1)/n in an
        all-gather, a reduce-scatter and an all-to-all, twice that in an all-reduce (both of them), and V to one
        neighbour.
      runs: how often it runs in one step; `bytes` is of all of them.
      source: where in our code, as XLA kept it.
    """

    kind: str
    axis: str
    group: int
    bytes: int
    runs: int
    source: str


def collectives(program: Program, mesh_shape: dict[str, int]) -> list[Collective]:
    """All that a step sends, the largest first.

    XLA may cut one collective into pieces that run beside other work; the pieces have one channel and count once.
    """
    found: dict[object, Collective] = {}
    for instruction, computation, runs in program.executed():
        for inner, scattered in _inside(program, instruction, computation):
            kind = inner.opcode.removesuffix("-start")
            group, axis = _group(inner.text, mesh_shape)
            if group == 1:  # every device keeps its own
                continue
            scattered = scattered and kind == "all-reduce"
            kind = "reduce-scatter" if scattered else kind
            full = _full_bytes(inner, kind, group, scattered)
            share = (group - 1) / group
            sent = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * full
            source = _SOURCE.search(inner.text)
            channel = _CHANNEL.search(inner.text)
            # GPUs start theirs outside of fusions, in one piece, and some that have nothing in common share a channel.
            if channel is None or inner.opcode.endswith("-start"):
                key: object = (kind, inner.name, id(inner))
            else:
                key = (kind, channel[1])
            if key not in found or found[key].runs < runs:
                found[key] = Collective(kind, axis, group, round(sent * runs), runs, source[1] if source else "")
    return sorted((one for one in found.values() if one.bytes), key=lambda one: -one.bytes)


def by_kind_and_axis(found: list[Collective]) -> list[Collective]:
    """Sums over everything of one kind over one axis, the largest first; `source` is the largest one's."""
    sums: dict[tuple[str, str], Collective] = {}
    for one in found:
        key = (one.kind, one.axis)
        before = sums.get(key)
        sums[key] = (
            one
            if before is None
            else dataclasses.replace(before, bytes=before.bytes + one.bytes, runs=before.runs + one.runs)
        )
    return sorted(sums.values(), key=lambda one: -one.bytes)


def _inside(
    program: Program, instruction: Instruction, computation: dict[str, Instruction], scattered: bool = False
) -> Iterator[tuple[Instruction, bool]]:
    """The collectives of an instruction: itself, or those in what it is fused of.

    The flag says that the all-reduce is followed by each device's taking its own part: a reduce-scatter.
    """
    if instruction.opcode.removesuffix("-start") in KINDS:
        yield instruction, scattered
    elif instruction.opcode in ("fusion", "custom-call", "async-start"):
        for name in called_by(instruction):
            inner = program.computations.get(name, {})
            for one in inner.values():
                yield from _inside(program, one, inner, scattered or name.startswith("all-reduce-scatter"))


def _full_bytes(instruction: Instruction, kind: str, group: int, scattered: bool) -> float:
    """Bytes of the whole array on one device: gathered, or before it is scattered."""
    size = shape_bytes(instruction.shape)
    if scattered or kind == "all-reduce":
        return size
    if instruction.opcode.endswith("-start"):  # its result is (operands, results)
        return size * group / (group + 1) if kind in ("all-gather", "reduce-scatter") else size / 2
    return size * group if kind == "reduce-scatter" else size


def _group(text: str, mesh_shape: dict[str, int]) -> tuple[int, str]:
    """Number of devices that take part together, and the mesh axes along which they differ: none if it is 1."""
    sizes = list(mesh_shape.values())
    devices = math.prod(sizes)
    groups = _groups(text, devices)
    if groups.shape[1] < 2:
        return 1, ""
    coordinates = np.stack(np.unravel_index(groups, sizes), axis=-1)  # [groups, members, axes]
    differs = (coordinates != coordinates[:, :1]).any(axis=(0, 1))
    axes = [name for name, moves in zip(mesh_shape, differs, strict=True) if moves]
    return groups.shape[1], "+".join(axes)


def _groups(text: str, devices: int) -> np.ndarray:
    """int [groups, members]: numbers of devices in the order of the mesh."""
    counted, listed, pairs = _COUNTED.search(text), _LISTED.search(text), _PAIRS.search(text)
    named = _NAMED.search(text)
    if counted:
        return _iota(devices, counted[2], counted[3]).reshape(_integers(counted[1]))
    if named:
        return _named_groups(devices, *named.groups())
    if pairs or listed:
        inside = (pairs or listed)[1]  # type: ignore[index]
        groups = [_integers(one) for one in re.findall(r"\{([\d, ]+)\}", inside)]
        if pairs:  # senders of a permutation; a device that keeps its own part is no pair to look at
            groups = [pair for pair in groups if pair[0] != pair[1]] or [[0]]
        return np.array(groups)
    return np.arange(devices)[None]


def _iota(devices: int, shape: str | None, order: str | None) -> np.ndarray:
    numbers = np.arange(devices)
    if shape:
        numbers = numbers.reshape(_integers(shape))
    return numbers.transpose(_integers(order)) if order else numbers


def _named_groups(devices: int, axes: str, shape: str | None, order: str | None, over: str) -> np.ndarray:
    """Groups along some axes of a mesh ``'a'=4,'b'=2``; ``'a':(2)2`` is the part of `a` behind its first 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    split: list[tuple[int, bool]] = []  # (size, whether groups go along it), in the order of the mesh
    for name, size in sizes.items():
        part = re.search(rf"'{re.escape(name)}'(?::\((\d+)\)(\d+))?", over)
        if part is None:
            split.append((size, False))
        elif part[1] is None:
            split.append((size, True))
        else:
            before, inside = int(part[1]), int(part[2])
            split += [(before, False), (inside, True), (size // before // inside, False)]
    numbers = _iota(devices, shape, order).reshape([size for size, _ in split])
    along = [axis for axis, (_, moves) in enumerate(split) if moves]
    members = math.prod(split[axis][0] for axis in along)
    return np.moveaxis(numbers, along, range(-len(along), 0)).reshape(-1, members) if along else numbers.reshape(-1, 1)


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
