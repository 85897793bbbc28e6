"""How many tokens every timestep of a source becomes, without tokenizing it again at every start.

A source is cut into *units*: the timesteps of a control episode, the tokens of a text document, or an image document as
a whole. Units are never cut (except in the last resort of `rows`), so an image stays with its caption and an
observation with its action. Sizes follow from the spec plus the text leaves; the latter are counted once and kept
beside the store, keyed by the text tokenizer's hash.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.progress import progress
from gato.data_pipelines.store import Store
from gato.tokenizers.layout import KINDS
from gato.tokenizers.sequence import SequenceTokenizer

SHOWN_BYTES = 16 << 20  # of a store: counting the tokens of a smaller one takes seconds, and no progress is shown


class TokenIndex:
    """Token counts of the episodes of one store.

    Args:
      learned: bool [kinds], which kinds of token may be targets.

    Attributes:
      units: int64 [N] units of each episode.
      widest: int64 [N] tokens of the largest unit of each episode.
      totals: int64 [N] tokens of each episode.
      patches_per_unit, idle_per_unit: image patches, and tokens that are never a target, in one unit.
    """

    def __init__(self, store: Store, tokenizer: SequenceTokenizer, learned: np.ndarray) -> None:
        spec = store.spec
        leaves = [path for path, leaf in spec.observations.items() if leaf.modality == "text"]
        images = any(leaf.modality == "image" for leaf in spec.observations.values())
        fixed = tokenizer.tokens_per_timestep(spec, 0)
        text_tokens = _text_tokens(store, tokenizer, leaves) if leaves else None
        self._cumulative: np.ndarray | None = None  # tokens before each timestep, where they differ within an episode
        self._first = np.concatenate([[0], np.cumsum(store.lengths, dtype=np.int64)])
        self.patches_per_unit = self.idle_per_unit = 0
        if spec.kind == "document" and not images:
            assert text_tokens is not None
            self.units = text_tokens.astype(np.int64) + fixed
            self.widest = np.ones(len(store), np.int64)
            self.totals = self.units
            return
        self.units = store.lengths.astype(np.int64)
        if text_tokens is None:
            self.widest = np.full(len(store), fixed, np.int64)
            self.totals = self.widest * self.units
        else:
            steps = text_tokens.astype(np.int64) + fixed
            self.widest = np.maximum.reduceat(steps, self._first[:-1])
            self.totals = np.add.reduceat(steps, self._first[:-1])
            if (self.widest * self.units != self.totals).any():
                self._cumulative = np.concatenate([[0], np.cumsum(steps)])
        _check_local_positions(store, tokenizer, self.widest, fixed)
        self.patches_per_unit, self.idle_per_unit = _constant_tokens(store, tokenizer, learned)

    def tokens_before(self, episodes: np.ndarray, units: np.ndarray) -> np.ndarray:
        """int64 [n]: tokens of the episode that come before a unit (0..units of the episode, inclusive)."""
        if self._cumulative is None:
            return self.widest[episodes] * units
        first = self._first[episodes]
        return self._cumulative[first + units] - self._cumulative[first]

    def tokens_in(self, episode: int, start: int, stop: int) -> int:
        """Tokens of the episode's units ``start..stop-1``."""
        if self._cumulative is None:
            return int(self.widest[episode]) * (stop - start)
        first = self._first[episode]
        return int(self._cumulative[first + stop] - self._cumulative[first + start])

    def units_in(self, episodes: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many units tokens ``begin..end-1`` touch, and how many they hold as a whole, int64 [n] each."""
        if self._cumulative is None:
            widest = self.widest[episodes]
            touched = np.where(end > begin, -(-end // widest) - begin // widest, 0)
            return touched, np.maximum(end // widest - -(-begin // widest), 0)
        touched = np.zeros(len(episodes), np.int64)
        for number in np.flatnonzero(end > begin):
            start, stop, _ = self.unit_range(int(episodes[number]), int(begin[number]), int(end[number]))
            touched[number] = stop - start
        return touched, np.maximum(touched - 2, 0)  # at most the outermost two are cut

    def unit_range(self, episode: int, begin: int, end: int) -> tuple[int, int, int]:
        """The units that hold tokens ``begin..end-1`` of an episode, as (start, stop, tokens before start)."""
        if self._cumulative is None:
            width = int(self.widest[episode])
            return begin // width, -(-end // width), begin // width * width
        first, stop = self._first[episode : episode + 2]
        before = self._cumulative[first : stop + 1] - self._cumulative[first]
        start = int(np.searchsorted(before, begin, side="right")) - 1
        return start, int(np.searchsorted(before, end, side="left")), int(before[start])


def _check_local_positions(store: Store, tokenizer: SequenceTokenizer, widest: np.ndarray, fixed: int) -> None:
    """Refuses observations that are too long now, and not when a row shows one, many steps into a run."""
    episode = int(np.argmax(widest))
    observed = tokenizer.observed_tokens(store.spec, int(widest[episode]) - fixed)
    if observed > tokenizer.local_positions:
        what = "a picture of a document" if store.spec.kind == "document" else f"a timestep of episode {episode}"
        raise MixtureError(
            f"{store.name}: {what} observes {observed} tokens, but there are {tokenizer.local_positions} local "
            f"positions: observe less (pictures as uint8, not as numbers), or set "
            f"--config.model.local_positions={observed}"
        )


def _constant_tokens(store: Store, tokenizer: SequenceTokenizer, learned: np.ndarray) -> tuple[int, int]:
    """Patches, and tokens without loss, of one unit: read off the first timestep of the first episode.

    Text, whose length differs, does not count among them.
    """
    first = store.episode(0, 0, 1)
    derived = {
        name: np.zeros((1, *leaf.shape), np.int32 if leaf.modality == "discrete" else np.float32)
        for name, leaf in tokenizer.layout.derived.items()
    }
    derived = derived if store.spec.kind == "control" else {}
    sequence = tokenizer.tokenize(first.observations, first.actions, store.spec, derived)
    idle = ((sequence.loss_weight == 0) | ~learned[sequence.kinds]) & (sequence.kinds != KINDS.index("text"))
    return len(sequence.patches), int(idle.sum())


def _text_tokens(store: Store, tokenizer: SequenceTokenizer, leaves: list[str]) -> np.ndarray:
    """int32 [timesteps of the store]: tokens of all text leaves together, counted or read from the cache."""
    if tokenizer.text is None:
        raise MixtureError(f"{store.name}: has text, but the tokenizer has no SentencePiece model; give it one")
    file = store.path / "cache" / f"text-tokens-{tokenizer.text.hash}.npy"
    total = int(store.lengths.sum(dtype=np.int64))
    with contextlib.suppress(OSError, ValueError):
        counts = np.load(file)
        if counts.shape == (total,):
            return counts
    counts = np.zeros(total, np.int32)
    position = 0
    long = sum(shard["bytes"] for shard in store.shards) >= SHOWN_BYTES
    with progress(total, "counting tokens", shown=long) as advance:
        for number in range(len(store)):
            episode = store.episode(number)
            for path in leaves:
                # Instructions repeat, and the tokenizer keeps those that it saw last.
                texts = map(tokenizer.text.encode, episode.observations[path])
                counts[position : position + len(episode)] += np.fromiter(map(len, texts), np.int32, len(episode))
            position += len(episode)
            advance(len(episode), store.name)
    _save(file, counts)
    return counts


def _save(file: Path, counts: np.ndarray) -> None:
    """Keeps the counts for the next start; a read-only or full disk only costs that start the counting."""
    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial.npy")
    with contextlib.suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        np.save(partial, counts)
        os.replace(partial, file)
