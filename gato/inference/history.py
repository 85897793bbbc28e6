"""The host's copy of what each row of a batch holds: tokens, one after the other, from which chunks are cut.

Plain numpy, vectorised over rows. Cutting a chunk out of it is one gather, whatever the chunk is: a prompt, an
observation, the last action's last token, or everything again.
"""

from __future__ import annotations

import numpy as np

from gato.tokenizers.token_sequence import NO_POSITION, TokenSequence

PATCH_SHAPE = (16, 16, 3)
SMALLEST_CAPACITY, GROWTH = 64, 4


class History:
    """Tokens of B rows of different lengths.

    Attributes:
      lengths: int32 [B], tokens of each row.
    """

    def __init__(self, rows: int, padding: int) -> None:
        """``padding``: id of what lies behind a row's end."""
        self.lengths = np.zeros(rows, np.int32)
        self._padding = padding
        self._tokens: dict[str, np.ndarray] = {
            "ids": np.zeros((rows, 0), np.int32),
            "local_position": np.zeros((rows, 0), np.int16),
        }

    @property
    def capacity(self) -> int:
        return self._tokens["ids"].shape[1]

    def append(self, rows: np.ndarray, sequence: TokenSequence) -> None:
        """Puts token i of the sequence behind row ``rows[i]``; ``rows`` is ascending."""
        patched = sequence.patch_index >= 0
        if patched.any() and "patches" not in self._tokens:
            shape = self._tokens["ids"].shape
            self._tokens["patched"] = np.zeros(shape, bool)
            self._tokens["patch_intervals"] = np.zeros((*shape, 4), np.int16)
            self._tokens["patches"] = np.zeros((*shape, *PATCH_SHAPE), np.uint8)
        at = self._extend(rows)
        self._tokens["ids"][at] = sequence.ids
        self._tokens["local_position"][at] = sequence.local_position
        if "patches" in self._tokens:
            self._tokens["patched"][at] = patched
            index, at = sequence.patch_index[patched], (at[0][patched], at[1][patched])
            self._tokens["patch_intervals"][at] = sequence.patch_intervals[index]
            self._tokens["patches"][at] = sequence.patches[index]

    def append_ids(self, rows: np.ndarray, ids: np.ndarray, local_position: int = NO_POSITION) -> None:
        """Puts ids [n, count] behind the n rows."""
        at = self._extend(np.repeat(rows, ids.shape[1]))
        self._tokens["ids"][at] = ids.reshape(-1)
        self._tokens["local_position"][at] = local_position
        if "patched" in self._tokens:
            self._tokens["patched"][at] = False

    def _extend(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Room for one token in each of ``rows``: where it is."""
        columns = self.lengths[rows] + np.arange(len(rows)) - np.searchsorted(rows, rows)
        self.lengths = self.lengths + np.bincount(rows, minlength=len(self.lengths)).astype(np.int32)
        missing = int(self.lengths.max(initial=0)) - self.capacity
        if missing > 0:
            missing = max(missing, self.capacity // 2)
            for name, values in self._tokens.items():
                self._tokens[name] = np.pad(values, ((0, 0), (0, missing), *((0, 0),) * (values.ndim - 2)))
        return rows, columns

    def cut(self, row: int, start: int, stop: int) -> None:
        """Takes tokens ``start:stop`` out of a row; what follows them moves up."""
        length = int(self.lengths[row])
        for values in self._tokens.values():
            values[row, start : start + length - stop] = values[row, stop:length]
        self.lengths[row] = length - (stop - start)

    def keep(self, rows: np.ndarray) -> None:
        """Row ``rows[i]`` becomes row i; the others go."""
        self.lengths = self.lengths[rows]
        self._tokens = {name: values[rows] for name, values in self._tokens.items()}

    def chunk(
        self, rows: np.ndarray, starts: np.ndarray, width: int, patch_capacity: int = 0
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The tokens from ``starts[i]`` on of each row ``rows[i]``, at most ``width``.

        Args:
          rows, starts: int [n].
          patch_capacity: least number of patches in the result. Equal patches are stored once (the backgrounds of games
            and the tiles of grid worlds repeat); where they need more room, it grows fourfold until they fit.

        Returns:
          The arrays ``ids``, ``local_position`` [n, width] of a batch and, if the history has patches,
          ``patch_index`` [n, width], ``patch_intervals`` [n, width, 4], ``patches`` [capacity, 16, 16, 3]; and the
          number of valid tokens, int32 [n].
        """
        valid = np.clip(self.lengths[rows] - starts, 0, width).astype(np.int32)
        inside = np.arange(width) < valid[:, None]
        at = rows[:, None], np.where(inside, starts[:, None] + np.arange(width), 0)
        tokens = {
            "ids": np.where(inside, self._tokens["ids"][at], np.int32(self._padding)),
            "local_position": np.where(inside, self._tokens["local_position"][at], np.int16(NO_POSITION)),
        }
        if "patches" in self._tokens:
            patched = inside & self._tokens["patched"][at]
            where = at[0].repeat(width, axis=1)[patched], at[1][patched]
            tokens["patches"], numbers = _distinct(self._tokens["patches"][where], patch_capacity)
            tokens["patch_index"] = np.full(patched.shape, -1, np.int32)
            tokens["patch_index"][patched] = numbers
            tokens["patch_intervals"] = np.where(patched[..., None], self._tokens["patch_intervals"][at], np.int16(0))
        return tokens, valid


def _distinct(pixels: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patches, padded to the capacity, and for each given patch its number among them."""
    capacity = max(capacity, SMALLEST_CAPACITY)
    if not len(pixels):
        return np.zeros((capacity, *PATCH_SHAPE), np.uint8), np.zeros(0, np.int32)
    flat = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    _, first, numbers = np.unique(
        flat.view(np.dtype((np.void, flat.shape[1]))).reshape(-1), return_index=True, return_inverse=True
    )
    while capacity < len(first):
        capacity *= GROWTH
    result = np.zeros((capacity, *PATCH_SHAPE), np.uint8)
    result[: len(first)] = pixels[first]
    return result, numbers.reshape(-1).astype(np.int32)
