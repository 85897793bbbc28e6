"""Batches in the row order, prefetched by threads; the position is one integer.

Batch n of a run holds rows ``n * batch_size .. (n + 1) * batch_size - 1``, and each host assembles its groups of them,
so the stream depends neither on threads nor on hosts, and resuming is starting at another n.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from gato.data_pipelines.collate import Batch, collate, join, pad
from gato.data_pipelines.errors import MixtureError, ResumeError
from gato.data_pipelines.mixture import SourceConfig, open_sources
from gato.data_pipelines.rows import Rows
from gato.data_pipelines.token_cache import Derive, TokenCache, Weigh
from gato.data_pipelines.worker_process import start_worker
from gato.tokenizers.sequence import SequenceTokenizer

ORDER_VERSION = 1  # of the row order; changes when the same data and settings would give other rows
PROBED_BATCHES = 16
ROUNDED_TO = 64  # static sizes are multiples of it
ENDLESS = 1 << 40


@dataclasses.dataclass(frozen=True)
class Capacities:
    """Static sizes of a group's patch buffer and list of targets; fuller groups get a power of two times as much."""

    patches: int
    targets: int


class Loader:
    """An endless iterator of batches (see `collate`) of one mixture.

    Attributes:
      sources: opened sources, in the order of `configs`: names, specs, splits.
      rows: the row order of the training split.
    """

    def __init__(
        self,
        configs: Sequence[SourceConfig],
        tokenizer: SequenceTokenizer,
        batch_size: int,
        length: int,
        seed: int,
        *,
        start_batch: int = 0,
        groups: int = 1,
        hosted: Sequence[int] | None = None,
        threads: int = 2,
        workers: int = 0,
        derive: Derive | None = None,
        episode_weight: Weigh | None = None,
        recipe: str = "gato",
        cache_bytes: int = 512 << 20,
    ) -> None:
        """Opens the sources; see `open_sources` for what is refused.

        Args:
          batch_size: rows of a batch over all hosts. length: tokens in a row.
          seed: of the row order and of the held-out episodes.
          start_batch: number of the first batch.
          groups: of rows that a batch is cut into, see `collate`. hosted: those that this host assembles; None: all.
          threads: that prefetch; 0 assembles in the calling thread. The batches are the same.
          workers: processes that assemble batches, each with so many threads; 0: this one does. Of use where decoding
            pictures is too much for threads; the batches are the same.
          derive, episode_weight, recipe: what the recipe computes from an episode, and its name (for the fingerprint).
          cache_bytes: memory for tokenized episodes.
        """
        if groups < 1 or batch_size < 1 or batch_size % groups:
            raise MixtureError(f"batch_size={batch_size} must be a positive multiple of groups={groups}")
        if length < 2:
            raise MixtureError(f"length={length}: a row needs at least two tokens")
        if threads < 0 or workers < 0:
            raise MixtureError(f"threads={threads}, workers={workers}: neither can be negative; 0 does without")
        self.sources = open_sources(configs, tokenizer, length, seed)
        self.rows = Rows(self.sources, length, seed)
        self._held_out: Rows | None = None
        self._tokenizer, self._batch_size, self._length, self._seed = tokenizer, batch_size, length, seed
        self._groups, self._hosted = groups, tuple(range(groups) if hosted is None else hosted)
        self._threads, self._workers = threads, workers
        # What a worker process needs to build its own loader.
        self._arguments = {
            "configs": configs,
            "tokenizer": tokenizer,
            "batch_size": batch_size,
            "length": length,
            "seed": seed,
            "groups": groups,
            "hosted": hosted,
            "derive": derive,
            "episode_weight": episode_weight,
            "recipe": recipe,
            "cache_bytes": cache_bytes // max(workers, 1),
        }
        self._recipe = recipe
        self._cache = TokenCache(self.sources, tokenizer, derive, episode_weight, cache_bytes)
        self._next_batch = start_batch
        self._iterator: Iterator[Batch] | None = None
        self._capacities: Capacities | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self._arguments, "capacities": self._capacities}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state["arguments"])  # type: ignore[misc]
        self._capacities = state["capacities"]

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self.probe()
            batches = grain.MapDataset.source(_Batches(self))[self._next_batch :]
            options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
            dataset = batches.to_iter_dataset(options)
            if self._workers:
                if not flags.FLAGS.is_parsed():  # grain asks for absl's flags in its processes
                    flags.FLAGS(sys.argv[:1])
                processes = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
                dataset = dataset.mp_prefetch(processes, _start_worker)
            self._iterator = iter(dataset)
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def batch(self, number: int) -> Batch:
        """This host's groups of batch `number` of the training split."""
        return self._assemble(self.rows, number)

    def validation_batches(self, count: int) -> Iterator[Batch]:
        """The first `count` batches over the held-out episodes, always the same, with the mixture's shares.

        Raises:
          MixtureError: no source has held-out episodes.
        """
        if self._held_out is None:
            self._held_out = Rows(self.sources, self._length, self._seed, "held_out")
        rows = self._held_out
        return (self._assemble(rows, number) for number in range(count))

    def probe(self) -> Capacities:
        """The static sizes of this run's batches, found from its first batches: the same before and after a resume."""
        with self._lock:
            if self._capacities is None:
                sizes = np.array([self._sizes(self.rows, number) for number in range(PROBED_BATCHES)])
                spread = np.maximum(sizes.max(axis=0), sizes.mean(axis=0) + 5 * sizes.std(axis=0))
                patches, targets = (static_size(size) for size in spread)
                self._capacities = Capacities(patches, targets)
            return self._capacities

    def state(self) -> dict[str, Any]:
        """JSON values from which `restore` continues after the last batch that was handed out."""
        return {"next_batch": self._next_batch, "fingerprint": self.fingerprint()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
          ResumeError: the fingerprint differs; the message lists what.
        """
        differences = list(_differences(state["fingerprint"], self.fingerprint()))
        if differences:
            raise ResumeError(
                f"the data of this run changed since the checkpoint: {'; '.join(differences[:8])}"
                f"{' and more' if len(differences) > 8 else ''}. Restore them, or start a new run from the parameters"
            )
        self._next_batch = int(state["next_batch"])
        self._iterator = None

    def fingerprint(self) -> dict[str, Any]:
        """Everything that the batches depend on, as JSON values."""
        text = self._tokenizer.text
        fingerprint = {
            "order_version": ORDER_VERSION,
            "seed": self._seed,
            "length": self._length,
            "batch_size": self._batch_size,
            "recipe": self._recipe,
            "tokenizer": {
                "vocabulary": self._tokenizer.vocabulary.hash,
                "text": None if text is None else text.hash,
                "layout": self._tokenizer.layout.to_json(),
            },
            "sources": {source.name: source.fingerprint() for source in self.sources},
            # Packing and the batch's source numbers follow the order.
            "source_order": [source.name for source in self.sources],
        }
        return json.loads(json.dumps(fingerprint))

    def _assemble(self, rows: Rows, number: int) -> Batch:
        """This host's groups of a batch, padded to static sizes."""
        capacities = self.probe()
        of_all = self._sizes(rows, number) if len(self._hosted) < self._groups else None

        def room(patches: int) -> int:
            return _bucket(of_all[0] if of_all else patches, capacities.patches)

        groups = [self._group(rows, number, group, room) for group in self._hosted]
        patches, targets = _largest(groups)
        targets = _bucket(of_all[1] if of_all else targets, capacities.targets)
        return join([pad(group, patches, targets) for group in groups])

    def _group(self, rows: Rows, number: int, group: int, room: Callable[[int], int] | None = None) -> Batch:
        size = self._batch_size // self._groups
        first = number * self._batch_size + group * size
        table, row_of = rows.segments(first, first + size)
        return collate(self._cache, table, row_of, size, self._length, self._tokenizer.vocabulary.padding, room)

    def _sizes(self, rows: Rows, number: int) -> tuple[int, int]:
        """Patches and targets of a batch's fullest group: exact on one host; on several, the most that the plan allows.

        All hosts must agree on the size without seeing each other's tokens, so equal patches are not discounted there.
        """
        if len(self._hosted) == self._groups:
            return _largest([self._group(rows, number, group) for group in self._hosted])
        first = number * self._batch_size
        table, row_of = rows.segments(first, first + self._batch_size)
        patches, targets = rows.most(table)
        group = row_of * self._groups // self._batch_size
        return int(np.bincount(group, patches).max()), int(np.bincount(group, targets).max())


def static_size(size: float) -> int:
    """Patches or targets that a group has room for which needs so many."""
    return ROUNDED_TO * max(1, -(-int(size) // ROUNDED_TO))


def _largest(groups: Sequence[Batch]) -> tuple[int, int]:
    return max(len(group["patches"]) for group in groups), max(len(group["target_index"]) for group in groups)


class _Batches:
    """Random access to batches by number, as grain wants it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: Any) -> Batch:
        return self._loader.batch(int(number))


def _start_worker(number: int, count: int) -> None:
    start_worker(on_signal=signal.SIG_IGN)  # a run that is told to stop still needs the batch of its last step


def _bucket(size: int, base: int) -> int:
    """The smallest base * 2**k that holds `size`: few shapes, so few compilations."""
    while base < size:
        base *= 2
    return base


def _differences(saved: Any, current: Any, path: str = "") -> Iterator[str]:
    """``field.of.field: saved -> current`` for every difference of two JSON values."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted({*saved, *current}):
            yield from _differences(saved.get(key), current.get(key), f"{path}.{key}" if path else key)
    elif saved != current:
        before, after = (json.dumps(value) for value in (saved, current))
        yield f"{path}: {before[:80]} -> {after[:80]}"
