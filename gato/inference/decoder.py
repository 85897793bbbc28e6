"""The device's side of acting: the cache of B rows, and the compiled calls on any n of them.

Shapes are static: n rows run as the next power of two of rows, or as all of them, and what a call reads beforehand (a
prompt, a row that was set back) comes in chunks of few sizes. So one embodiment needs few compilations, whoever acts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gato.inference import sampler
from gato.inference.memory import Memory
from gato.inference.sampling import Sampling
from gato.model.cache import Cache, init_cache
from gato.model.config import ModelConfig

CAPACITY_ROUNDING = 16
# Sizes of the chunks in which rows read what they have not read yet: powers of two between these, or the whole of a
# smaller cache. Larger ones are no faster on a CPU, and a ring needs room for one.
SMALLEST_CHUNK, LARGEST_CHUNK = 16, 128
FAR = 1 << 30  # tokens of a row in a ring, after weeks, that are taken for fewer: positions are int32


class Decoder:
    """Reads and acts for rows whose tokens a `Memory` keeps.

    Args:
      config, params: the network.
      rows: B.
      tokens: most tokens of a row, or, in a ring, that each token sees; where a row needs more, the cache grows.
      ring: whether the oldest tokens are overwritten.
      timestep: tokens of a timestep, which should be read in one call.

    Attributes:
      capacity: tokens for which each row of the cache has room.
    """

    def __init__(
        self, config: ModelConfig, params: Any, rows: int, tokens: int, *, ring: bool = False, timestep: int = 0
    ) -> None:
        self._config, self._params, self._rows = config, params, rows
        self._span = tokens if ring else None
        self._longest = max(LARGEST_CHUNK, timestep)
        self._patches = 0
        self.capacity = _round_up(tokens + ring * (self._longest - 1), CAPACITY_ROUNDING)
        self._cache: Cache | None = self._empty()

    def release(self) -> None:
        """Gives the cache's memory back. The next call has an empty one of the same size and compiles nothing."""
        self._cache = None

    def _empty(self) -> Cache:
        cache = init_cache(self._config, self._rows, self.capacity, self._params, self._span)
        # Committed to its device, as what a call returns is: else the first call would be a program of its own.
        return jax.device_put(cache, jax.tree.leaves(self._params)[0].sharding)

    def act(
        self,
        memory: Memory,
        rows: np.ndarray,
        width: int,
        ranges: sampler.Ranges,
        key: jax.Array,
        draws: np.ndarray,
        sampling: Sampling,
    ) -> tuple[np.ndarray, jax.Array, np.ndarray]:
        """Reads what is unread of ``rows`` [n] (ascending) and samples an action for each.

        Args:
          width: tokens of the chunk that is read in the call that acts; what is more is read before.
          draws: uint32 [n, 2], see `sampler.extend_and_act`.

        Returns:
          ids int32 [n, A]; logits [N, A, W] of the call's N rows, on the device; int [n], which of these are ``rows``
          (to pick them there would be a program of its own for every n).
        """
        self._reserve(memory, rows, len(ranges))
        self._take_back(memory)
        width = min(width, self._longest)
        while (behind := rows[memory.unread(rows) > width]).size:
            self._read(memory, behind, memory.unread(behind) - width)
        places = _Places.of(rows, self._rows)
        tokens, valid = self._chunk(memory, rows, width)
        ids, logits, self._cache = sampler.extend_and_act(
            self._config,
            ranges,
            self._params,
            self._cache or self._empty(),
            places.index,
            places.spread(memory.positions[rows]),
            _spread_tokens(tokens, places),
            places.spread(valid),
            key,
            places.spread(draws),
            sampling,
        )
        memory.advance(rows, valid)
        return np.asarray(ids)[places.where], logits, places.where

    def keep(self, rows: np.ndarray) -> None:
        """Row ``rows[i]`` becomes row i; the others go."""
        if self._cache is not None:
            self._cache = sampler.select_rows(self._cache, rows)
        self._rows = len(rows)

    def compile(self, memory: Memory, rows: np.ndarray) -> None:
        """Compiles reading for so many ``rows``, in chunks of every size; nothing is read."""
        width = SMALLEST_CHUNK
        while width < 2 * self._largest_chunk:
            self._read(memory, rows, np.zeros(len(rows), np.int32), width)
            width *= 2

    @property
    def _largest_chunk(self) -> int:
        return min(LARGEST_CHUNK, self.capacity)

    def _read(self, memory: Memory, rows: np.ndarray, counts: np.ndarray, least: int = SMALLEST_CHUNK) -> None:
        """One call that reads at most ``counts`` tokens of each row, as many as a chunk holds, as ``least`` or more."""
        width = min(self._largest_chunk, max(least, _power_of_two(int(counts.max()))))
        places = _Places.of(rows, self._rows)
        tokens, valid = self._chunk(memory, rows, width)
        valid = np.minimum(valid, counts)
        self._cache = sampler.extend(
            self._config,
            self._params,
            self._cache or self._empty(),
            places.index,
            places.spread(memory.positions[rows]),
            _spread_tokens(tokens, places),
            places.spread(valid),
        )
        memory.advance(rows, valid)

    def _chunk(self, memory: Memory, rows: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        tokens, valid = memory.history.chunk(rows, memory.read[rows], width, self._patches)
        if "patches" in tokens:
            self._patches = max(self._patches, len(tokens["patches"]))
        return tokens, valid

    def _take_back(self, memory: Memory) -> None:
        """Positions in a ring go back by whole rounds before they wrap. Two stay: it is seen to be full."""
        if self._span is None or memory.positions.max() < FAR:
            return
        rounds = np.maximum(memory.positions // self.capacity - 2, 0)
        by = np.where(memory.positions < FAR, 0, rounds * self.capacity).astype(np.int32)
        self._cache = sampler.take_back(self._config, self._cache or self._empty(), by)
        memory.positions -= by

    def _reserve(self, memory: Memory, rows: np.ndarray, action_tokens: int) -> None:
        """A larger cache where a row turns out longer than was expected, as texts may."""
        if self._span is not None:
            return
        needed = int((memory.positions[rows] + memory.unread(rows)).max()) + action_tokens
        if needed > self.capacity:
            needed = max(needed, self.capacity * 5 // 4)  # seldom: every program is compiled again
            self.capacity = _round_up(needed, CAPACITY_ROUNDING)
            if self._cache is not None:
                self._cache = sampler.grow(self._cache, self._empty())


@dataclasses.dataclass(frozen=True)
class _Places:
    """How n of B rows run as one call of fixed shape.

    Attributes:
      where: int [n], their places among the call's rows.
      size: rows of the call.
      index: int32 [size], which row of the cache each row of the call is, B where it is none; None: they are all B.
    """

    where: np.ndarray
    size: int
    index: np.ndarray | None

    @staticmethod
    def of(rows: np.ndarray, batch: int) -> _Places:
        size = _power_of_two(len(rows))
        if size >= batch:
            return _Places(rows, batch, None)
        index = np.full(size, batch, np.int32)
        index[: len(rows)] = rows
        return _Places(np.arange(len(rows)), size, index)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """[n, ...] -> [size, ...], zeros (of lengths: no token) where no row stands."""
        spread = np.zeros((self.size, *values.shape[1:]), values.dtype)
        spread[self.where] = values
        return spread


def _spread_tokens(tokens: Mapping[str, np.ndarray], places: _Places) -> dict[str, np.ndarray]:
    return {name: values if name == "patches" else places.spread(values) for name, values in tokens.items()}


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
