"""Reads the text of an optimised XLA program: instructions, which computation calls which, and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs: XLA has written it
next to the loop, or the loop's condition compares its counter, from 0 in steps of 1, with a constant, as a scan's does.
A loop that says neither and stands in one of n turns is taken for causal attention's over the tiles up to the diagonal,
which turns 1 to n times: (n + 1) / 2 in the mean.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
PLACED_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")  # with its layout
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|called_computations|branch_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      shape: text of its type, e.g. ``bf16[8,128]{1,0}`` or a tuple of such.
      operands: names.
      text: everything behind the opcode.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    text: str
    root: bool

    @property
    def bytes(self) -> int:
        return shape_bytes(self.shape)


@dataclasses.dataclass
class Program:
    """Attributes:
    computations: name -> its instructions by name.
    entry: name of the computation that runs first.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """Computation -> how often it runs in one execution; those called from inside a fusion or a reduction run with
        it and are not listed."""
        return self._visited[0]

    @functools.cached_property
    def _visited(self) -> tuple[dict[str, int], int, int]:
        """`runs`, `triangular_loops`, `unknown_loops`."""
        runs: dict[str, int] = {}
        triangular: set[str] = set()
        unknown: set[str] = set()

        def visit(name: str, times: int, around: int | None) -> None:
            runs[name] = runs.get(name, 0) + times
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode == "while":
                    turns = self.turns(instruction)
                    inside = times if turns is None else times * turns
                    if turns is None and around is not None:
                        inside = times * (around + 1) // 2  # `times` is a multiple of `around`
                        triangular.add(instruction.name)
                    elif turns is None:
                        unknown.add(instruction.name)
                    for called in called_by(instruction):
                        visit(called, inside, turns)
                elif instruction.opcode in ("call", "conditional", "async-start"):
                    for called in called_by(instruction):
                        visit(called, times, around)

        visit(self.entry, 1, None)
        return runs, len(triangular), len(unknown)

    def turns(self, loop: Instruction) -> int | None:
        """How often a ``while`` runs its body; None where the program does not say."""
        known = _TRIPS.search(loop.text)
        if known:
            return int(known[1])
        condition = _CONDITION.search(loop.text)
        computation = self.computations.get(condition[1], {}) if condition else {}
        for one in computation.values():
            if one.opcode == "compare" and one.root and "direction=LT" in one.text:
                limits = [computation[name] for name in one.operands if name in computation]
                constants = [limit.text for limit in limits if limit.opcode == "constant"]
                if constants:
                    return int(constants[0].split(")")[0])
        return None

    @property
    def unknown_loops(self) -> int:
        """Loops that are counted once because the program does not say how often they run."""
        return self._visited[2]

    @property
    def triangular_loops(self) -> int:
        """Loops that are taken for half of a square of tiles."""
        return self._visited[1]

    def executed(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Every instruction that stands by itself, its computation, and how often it runs."""
        for name, times in self.runs.items():
            computation = self.computations.get(name, {})
            for instruction in computation.values():
                yield instruction, computation, times


def parse(text: str) -> Program:
    """The program in ``compiled.as_text()``."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations[header[2]] = {}
            if header[1]:
                entry = header[2]
            continue
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        root, name, rest = bool(match[1]), match[2], match[3]
        opcode = _OPCODE.search(" " + rest if not rest.startswith("(") else rest)
        if not opcode:
            continue
        start = opcode.end() - (0 if rest.startswith("(") else 1)
        shape, inside = rest[: opcode.start()], rest[start:]
        operands = _operands(inside)
        current[name] = Instruction(name, opcode[1], shape.strip(), operands, inside, root)
    return Program(computations, entry)


def _operands(inside: str) -> tuple[str, ...]:
    depth, end = 1, len(inside)
    for position, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            end = position
            break
    return tuple(re.findall(r"%([\w.\-]+)", inside[:end]))


def called_by(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction calls."""
    return [
        name.strip().lstrip("%")
        for several, one in _CALLED.findall(instruction.text)
        for name in (several or one).split(",")
        if name.strip()
    ]


def shape_bytes(shape: str) -> int:
    """Bytes of all arrays of a type."""
    return sum(array_bytes(kind, sizes) for kind, sizes in _ARRAY.findall(shape))


def array_bytes(kind: str, sizes: str) -> int:
    """Of one array, rounded up to whole bytes; layouts' padding is not counted."""
    count = 1
    for size in filter(None, sizes.split(",")):
        count *= int(size)
    if kind in _BYTES:
        return _BYTES[kind] * count
    bits = re.search(r"\d+", kind)
    return -(-count * int(bits[0]) // 8) if bits else 0
