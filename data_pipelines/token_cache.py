"""Tokenized episodes, kept in memory: short windows of the same episodes are drawn again and again.

An episode becomes one int32 table with a row per token, so that cutting a window is one slice and a batch is one
concatenation, plus its distinct patches:

    column 0      id
    column 1      loss weight, the bits of a float32
    column 2      local position (int16) and kind (int16)
    column 3      index into the episode's distinct patches, -1 for none
    columns 4, 5  the patch's interval, four int16
    columns 6, 7  the patch's key, 64 bits of its pixels: patches with different keys differ
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gato.data_pipelines import draws
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import MixtureError, StoreError
from gato.data_pipelines.mixture import Source
from gato.tokenizers.sequence import SequenceTokenizer, TokenSequence

COLUMNS = 8
PATCH_BYTES = 16 * 16 * 3
SAMPLED_STEPS = 64
Derive = Callable[[Episode], Mapping[str, np.ndarray]]
Weigh = Callable[[Episode], float]
_HASHED_AT_ONCE = 256  # patches: what is between stays in the processor's cache
_KEY = PATCH_BYTES // 16 + 3  # the word that is a patch's key: in the middle, where most different patches differ
_MIXER = np.uint64(0xFF51AFD7ED558CCD)  # odd; of MurmurHash3's last mixing
_WEIGHTS = draws.bits(PATCH_BYTES // 4, "patch hashes").reshape(2, -1) | np.uint64(1)


def id_column(table: np.ndarray) -> np.ndarray:
    return table[:, 0]


def weight_column(table: np.ndarray) -> np.ndarray:
    return table.view(np.float32)[:, 1]


def local_position_column(table: np.ndarray) -> np.ndarray:
    return table.view(np.int16)[:, 4]


def kind_column(table: np.ndarray) -> np.ndarray:
    return table.view(np.int16)[:, 5]


def patch_column(table: np.ndarray) -> np.ndarray:
    return table[:, 3]


def interval_columns(table: np.ndarray) -> np.ndarray:
    return table.view(np.int16)[:, 8:12]


def key_column(table: np.ndarray) -> np.ndarray:
    return table.view(np.uint64)[:, 3]


class Patches:
    """Distinct patches: `pixels` uint8 [u, 16, 16, 3]."""

    def __init__(self, pixels: np.ndarray, hashes: np.ndarray | None = None) -> None:
        self.pixels = pixels
        self._hashes = hashes

    @property
    def words(self) -> np.ndarray:
        """The pixels as uint64 [u, 96]."""
        return self.pixels.reshape(len(self.pixels), -1).view(np.uint64)

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [u], `patch_hashes`; computed when first asked for, because a camera's keys tell its patches apart."""
        if self._hashes is None:
            self._hashes = patch_hashes(self.words)
        return self._hashes


Tokens = tuple[np.ndarray, Patches]  # table int32 [n, COLUMNS], and the patches that it indexes


class TokenCache:
    """The token tables of ranges of episodes, as long as they fit in memory; thread-safe.

    Sources that fit as a whole, smallest first, are tokenized by episodes and kept, least recently used dropped first;
    of the others only the timesteps that are asked for are read, and nothing is kept.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: SequenceTokenizer,
        derive: Derive | None = None,
        weigh: Weigh | None = None,
        capacity: int = 512 << 20,
    ) -> None:
        """`derive` and `weigh` are the recipe's: derived tokens, and a factor on the loss weights of an episode."""
        self._sources, self._tokenizer, self._derive, self._weigh = sources, tokenizer, derive, weigh
        self._capacity, self._bytes = capacity, 0
        self._entries: collections.OrderedDict[tuple[int, int], Tokens] = collections.OrderedDict()
        self._recipe: collections.OrderedDict[tuple[int, int], tuple[Mapping[str, np.ndarray], float]]
        self._recipe = collections.OrderedDict()
        self._lock = threading.Lock()
        self._kept = [False] * len(sources)
        tables = [int(source.index.totals.sum()) * COLUMNS * 4 for source in sources]
        patches = [int(source.index.units.sum()) * source.index.patches_per_unit * PATCH_BYTES for source in sources]
        most = [table + pixels for table, pixels in zip(tables, patches, strict=True)]
        used = 0
        for number in np.argsort(most, kind="stable").tolist():
            size = most[number]
            if used + tables[number] <= capacity < used + size:  # it depends on how many of its patches are equal
                size = tables[number] + int(patches[number] * self._distinct_share(number))
            if used + size <= capacity:
                self._kept[number] = True
                used += size

    def tokens(self, source: int, episode: int, begin: int, end: int) -> Tokens:
        """Tokens ``begin..end-1`` of an episode: its table's rows and the patches that they index."""
        if not self._kept[source]:
            if self._sources[source].store.spec.kind == "document":
                table, patches = self._make(source, episode, 0, 1)
                return table[begin:end], patches
            start, stop, before = self._sources[source].index.unit_range(episode, begin, end)
            table, patches = self._make(source, episode, start, stop)
            return table[begin - before : end - before], patches
        key = (source, episode)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
        if entry is None:
            entry = self._make(source, episode, 0, int(self._sources[source].store.lengths[episode]))
            with self._lock:
                if key not in self._entries:
                    self._entries[key] = entry
                    self._bytes += entry[0].nbytes + entry[1].pixels.nbytes
                while self._bytes > self._capacity and len(self._entries) > 1:
                    _, (table, patches) = self._entries.popitem(last=False)
                    self._bytes -= table.nbytes + patches.pixels.nbytes
        return entry[0][begin:end], entry[1]

    def _distinct_share(self, number: int) -> float:
        """Share of a source's patches that are not equal to another one of their episode, read off one episode."""
        source = self._sources[number]
        index = len(source.store) // 2
        steps = min(int(source.store.lengths[index]), SAMPLED_STEPS)
        _, distinct = self._make(number, index, 0, steps)
        return len(distinct.pixels) / (steps * source.index.patches_per_unit)

    def _make(self, number: int, index: int, start: int, stop: int) -> Tokens:
        source = self._sources[number]
        length = int(source.store.lengths[index])
        episode = source.store.episode(index, start, stop)
        derived, weight = self._of_recipe(number, index, episode if stop - start == length else None)
        derived = {name: values[start:stop] for name, values in derived.items()}
        sequence = self._tokenizer.tokenize(episode.observations, episode.actions, source.store.spec, derived)
        if source.store.spec.kind == "document":
            expected = int(source.index.totals[index])
        else:
            expected = source.index.tokens_in(index, start, stop)
        if len(sequence) != expected:
            raise StoreError(
                f"{source.name}: episode {index} has {len(sequence)} tokens, but {expected} were counted when the "
                f"source was opened; delete {source.store.path / 'cache'}"
            )
        return token_table(sequence, stop - start, np.where(source.learned, weight, 0.0))

    def _of_recipe(self, number: int, index: int, episode: Episode | None) -> tuple[Mapping[str, np.ndarray], float]:
        """Derived values and the weight of a whole episode, which is read if it is not given."""
        loss_weight = self._sources[number].config.loss_weight
        if self._derive is None and self._weigh is None:
            return {}, loss_weight
        key = (number, index)
        with self._lock:
            known = self._recipe.get(key)
        if known is not None:
            return known
        source = self._sources[number]
        episode = source.store.episode(index) if episode is None else episode
        control = source.store.spec.kind == "control"
        derived = dict(self._derive(episode)) if self._derive is not None and control else {}
        weight = loss_weight * (1.0 if self._weigh is None else float(self._weigh(episode)))
        if not math.isfinite(weight):
            raise MixtureError(f"{source.name}: the recipe's episode_weight of episode {index} is {weight}")
        with self._lock:
            self._recipe[key] = (derived, weight)
            if len(self._recipe) > 65536:
                self._recipe.popitem(last=False)
        return derived, weight


def token_table(sequence: TokenSequence, timesteps: int, factors: np.ndarray) -> Tokens:
    """The table and the distinct patches of a token sequence, its loss weights multiplied by `factors` [kinds]."""
    table = np.zeros((len(sequence), COLUMNS), np.int32)
    id_column(table)[:] = sequence.ids
    weight_column(table)[:] = sequence.loss_weight * factors[sequence.kinds].astype(np.float32)
    local_position_column(table)[:] = sequence.local_position
    kind_column(table)[:] = sequence.kinds
    patch_column(table)[:] = -1
    if not len(sequence.patches):
        return table, Patches(sequence.patches)
    distinct, index = distinct_patches(sequence.patches, timesteps)
    where = np.flatnonzero(sequence.patch_index >= 0)
    which = sequence.patch_index[where]
    patch_column(table)[where] = index[which]
    interval_columns(table)[where] = sequence.patch_intervals[which]
    key_column(table)[where] = distinct.words[:, _KEY][index[which]]
    return table, distinct


def distinct_patches(patches: np.ndarray, timesteps: int) -> tuple[Patches, np.ndarray]:
    """Finds equal patches.

    Args:
      patches: uint8 [n, 16, 16, 3], as many in every timestep.

    Returns:
      the distinct patches, and the index of each patch among them int64 [n].
    """
    words = np.ascontiguousarray(patches).reshape(timesteps, len(patches) // timesteps, -1).view(np.uint64)
    if all_different(words[..., _KEY].reshape(-1)):  # a camera's: nothing need be hashed or moved
        return Patches(patches), np.arange(len(patches))
    changed = np.ones(words.shape[:2], bool)
    changed[1:] = words[1:, :, _KEY] != words[:-1, :, _KEY]
    if not changed.all():  # a simulator's: most equal their predecessor, which is cheaper to see than a hash
        changed[1:] = (words[1:] != words[:-1]).any(axis=-1)
    flat = words.reshape(len(patches), -1)
    hashed = np.flatnonzero(changed.reshape(-1))
    values = patch_hashes(flat if len(hashed) == len(flat) else flat[hashed])
    hashes, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    if len(hashes) == len(patches):
        return Patches(patches, values), np.arange(len(patches))
    last_change = np.maximum.accumulate(np.where(changed, np.arange(timesteps)[:, None], 0), axis=0)
    of_patch = np.zeros(len(patches), np.int64)
    of_patch[hashed] = inverse
    source = (last_change * words.shape[1] + np.arange(words.shape[1])).reshape(-1)
    return Patches(patches[hashed[first]], hashes), of_patch[source]


def patch_hashes(words: np.ndarray) -> np.ndarray:
    """uint64 [n]: a 64-bit hash of each row of ``words`` uint64 [n, 96], a patch's bytes.

    Two sums, of the words and of their upper halves, each weighted with an odd number of its place. A product keeps
    the zeros at a difference's end, so one sum alone tells words that differ in their highest bits badly apart.
    """
    hashes = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _HASHED_AT_ONCE):
        part = words[start : start + _HASHED_AT_ONCE]
        whole = np.einsum("nw,w->n", part, _WEIGHTS[0])
        upper = np.einsum("nw,w->n", part >> np.uint64(32), _WEIGHTS[1])
        hashes[start : start + _HASHED_AT_ONCE] = (whole ^ (whole >> np.uint64(32))) * _MIXER + upper
    return hashes


def all_different(values: np.ndarray) -> bool:
    """Whether no value occurs twice."""
    ordered = np.sort(values)
    return not (ordered[1:] == ordered[:-1]).any()
