"""Sokoban levels small enough to be solved completely: every state, its successors, and its distance to the solution.

A 7x7 level is a ring of walls around 5x5 cells. With one box that leaves fewer than 625 states, with two fewer than
15,625, so no heuristic search is needed: one backward sweep gives the exact number of moves left from *every* state. It
also tells which states are dead, and gives an expert's answer wherever noise has led an episode.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib

import numpy as np

SIZE = 5  # Cells a side inside the ring of walls.
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # Up, down, left, right: (row, column) steps; the order of the actions.
UNSOLVABLE = 30_000  # "Distance" of a dead state; larger than any real one.

_INNER_WALLS = (1, 5)  # Least and largest number of walls inside the ring.
_SOLUTION = (4, 36)  # Least and largest number of moves of the shortest solution of a level.
# One board in eight is kept for evaluation, chosen by a checksum: no state of a collected level can ever be evaluated.
_HELD_OUT_SHARE = 8


class Puzzle:
    """The state space of one board: a state is the index of (player, box, ...) over the board's floor cells.

    Attributes:
      walls: bool [5, 5].
      floor: int [n, 2], row and column of the floor cells, row-major.
      targets: int [5, 5] bool map of the target cells.
      successors: int32 [4, S], the state after each action; a move into something solid changes nothing.
      distance: int16 [S], moves left on a shortest solution, `UNSOLVABLE` in dead states.
      boxes: number of boxes.
    """

    def __init__(self, walls: np.ndarray, targets: np.ndarray) -> None:
        self.walls, self.targets, self.boxes = walls, targets, int(targets.sum())
        self.floor = np.argwhere(~walls)
        cells = len(self.floor)
        self._shape = (cells,) * (1 + self.boxes)
        pieces = np.indices(self._shape, dtype=np.int32).reshape(1 + self.boxes, -1)
        self._distinct = np.logical_and.reduce([a != b for a, b in itertools.combinations(pieces, 2)])
        neighbours = self._neighbours()
        self.successors = np.stack([self._move(pieces, neighbours[action]) for action in range(len(MOVES))])
        on_target = targets[tuple(self.floor.T)]
        self.distance = self._sweep(on_target[pieces[1:]].all(axis=0) & self._distinct)

    def _neighbours(self) -> np.ndarray:
        """Int32 [4, n]: the floor cell next to each floor cell, -1 where there is a wall."""
        index = np.full((SIZE + 2, SIZE + 2), -1, np.int32)
        index[1:-1, 1:-1][~self.walls] = np.arange(len(self.floor))
        rows, columns = self.floor.T + 1
        return np.stack([index[rows + down, columns + right] for down, right in MOVES])

    def _move(self, pieces: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
        player, boxes = pieces[0], pieces[1:]
        ahead = neighbour[player]
        pushed = boxes == ahead
        pushed_to = np.where(pushed, neighbour[boxes], boxes)
        allowed = (ahead >= 0) & (pushed_to >= 0).all(axis=0) & self._distinct
        for one, other in itertools.permutations(range(self.boxes), 2):
            allowed &= ~pushed[one] | (pushed_to[one] != boxes[other])
        moved = np.where(allowed, np.concatenate([ahead[None], pushed_to]), pieces)
        return np.ravel_multi_index(tuple(moved), self._shape).astype(np.int32)

    def _sweep(self, solved: np.ndarray) -> np.ndarray:
        """Breadth first, backwards from the solved states."""
        distance = np.where(solved, 0, UNSOLVABLE).astype(np.int16)
        for moves in range(1, UNSOLVABLE):
            reached = (distance[self.successors].min(axis=0) == moves - 1) & (distance == UNSOLVABLE)
            if not reached.any():
                break
            distance[reached] = moves
        return distance

    def pieces(self, state: int) -> np.ndarray:
        """Int [1 + boxes, 2]: row and column of the player, then of the boxes."""
        return self.floor[list(np.unravel_index(state, self._shape))]

    def starts(self) -> np.ndarray:
        """States from which the shortest solution is neither trivial nor too long; boxes are told apart by no one."""
        low, high = _SOLUTION
        candidates = np.flatnonzero((self.distance >= low) & (self.distance <= high) & self._distinct)
        boxes = np.stack(np.unravel_index(candidates, self._shape))[1:]
        return candidates[(np.diff(boxes, axis=0) > 0).all(axis=0)]


@dataclasses.dataclass(frozen=True)
class Level:
    """A board and where the player and the boxes stand at the start."""

    puzzle: Puzzle
    start: int


def generate(boxes: int, rng: np.random.Generator, held_out: bool) -> Level:
    """A random solvable level.

    Args:
      boxes: number of boxes and of targets.
      rng: decides everything.
      held_out: draw from the levels kept for evaluation; they and the others are disjoint by construction.
    """
    while True:
        walls = np.zeros((SIZE, SIZE), bool)
        count = rng.integers(_INNER_WALLS[0], _INNER_WALLS[1] + 1)
        cells = rng.permutation(SIZE * SIZE)
        walls.flat[cells[:count]] = True
        targets = np.zeros((SIZE, SIZE), bool)
        targets.flat[cells[count : count + boxes]] = True
        if is_held_out(walls, targets) != held_out:
            continue
        puzzle = Puzzle(walls, targets)
        starts = puzzle.starts()
        if len(starts):
            return Level(puzzle, int(rng.choice(starts)))


def is_held_out(walls: np.ndarray, targets: np.ndarray) -> bool:
    """Whether the board (both bool [5, 5]) is kept for evaluation."""
    return zlib.crc32(walls.tobytes() + targets.tobytes()) % _HELD_OUT_SHARE == 0
