"""Bytes that a compiled step reads from and writes to the memory of a device: operands and results of what runs.

An estimate: it assumes that every operand is read once and every result written once, and knows nothing of what stays
in a cache. Arrays that XLA has placed in the fast memory on the chip do not count, nor does the part of an array that a
fusion never touches: scanned layers slice their own parameters out of those of all layers.
"""

from __future__ import annotations

from gato.planning.hlo import PLACED_ARRAY, Instruction, Program, array_bytes, called_by

# They move no data, or another instruction that is counted moves them.
_FREE = frozenset(
    {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional", "after-all"}
    | {"iota", "partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"}
)
_SLICES = ("dynamic-slice", "slice", "gather")


def memory_bytes(program: Program) -> int:
    """Of one step, on one device."""
    return sum(_bytes(program, one, computation) * runs for one, computation, runs in program.executed())


def _bytes(program: Program, one: Instruction, computation: dict[str, Instruction]) -> int:
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0
    operands = [computation[name] for name in one.operands if name in computation]
    if one.opcode == "fusion":
        inner = next((program.computations[name] for name in called_by(one) if name in program.computations), {})
        return _fusion_bytes(one, operands, inner)
    if one.opcode in _SLICES:
        return 2 * off_chip(one.shape)
    if one.opcode == "dynamic-update-slice":
        return 2 * off_chip(operands[1].shape) if len(operands) > 1 else 0
    if one.opcode.endswith("-start"):
        return off_chip(one.shape)  # operands and results together
    return off_chip(one.shape) + sum(off_chip(operand.shape) for operand in operands)


def _fusion_bytes(one: Instruction, operands: list[Instruction], inner: dict[str, Instruction]) -> int:
    root = next((instruction for instruction in inner.values() if instruction.root), None)
    total = off_chip(one.shape)
    updated = None
    if (
        root is not None
        and root.opcode == "dynamic-update-slice"
        and len(root.operands) > 1
        and root.operands[1] in inner
    ):
        # Written in place: only the new part is.
        total = min(total, off_chip_like(inner[root.operands[1]], one.shape))
        updated = root.operands[0]
    parameters = [instruction for instruction in inner.values() if instruction.opcode == "parameter"]
    parameters.sort(key=lambda instruction: int(instruction.text.split(")")[0]))
    for parameter, operand in zip(parameters, operands, strict=False):
        whole = off_chip(operand.shape)
        if not whole or parameter.name == updated:
            continue
        users = [user for user in inner.values() if parameter.name in user.operands]
        if users and all(user.opcode in _SLICES and user.operands[0] == parameter.name for user in users):
            whole = min(whole, sum(user.bytes for user in users))
        total += whole
    return total


def off_chip(shape: str) -> int:
    """Bytes of the arrays of a type that lie in the device's main memory."""
    return sum(array_bytes(kind, sizes) for kind, sizes, layout in PLACED_ARRAY.findall(shape) if "S(" not in layout)


def off_chip_like(part: Instruction, whole: str) -> int:
    """Bytes of a part of an array, 0 if the whole lies in fast memory."""
    return part.bytes if off_chip(whole) else 0
