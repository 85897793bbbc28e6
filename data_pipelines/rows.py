"""The row order: row i is a pure function of (data, settings, seed, i).

Rows are planned in blocks. Every source has a fixed quota of window tokens in a block, proportional to its weight, so
the stretch of its endless stream of epochs that belongs to block b begins at b times the quota: no history is needed.
The sequences of all sources in the block are packed into its rows, and the rows are shuffled.

Nothing is dropped. The quota leaves the packing a little more room than it was measured to need; in a block that needs
more all the same, a sequence without room loses its prompt and is cut at timesteps into the gaps of other rows, and if
even that fails, at tokens. The tokens of the windows always fit, by construction of the quota.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from gato.data_pipelines import draws
from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.mixture import Source, Split
from gato.data_pipelines.packing import pack, spread
from gato.data_pipelines.windows import EpochPlan

# Columns of a table of segments; ranges are token offsets within the episode's token sequence. No prompt: episode -1
# and an empty range.
SOURCE, EPISODE, BEGIN, END, PROMPT_EPISODE, PROMPT_BEGIN, PROMPT_END = range(7)
SMALLEST_BLOCK = 256
ROOM = 100  # rows in a block per row of overshoot, so that the overshoot costs at most 1 %
FRACTION_BITS = 10  # quotas are whole numbers of 1/1024 tokens, so that multiples of them are exact
CALIBRATION_BLOCKS = 3
KEPT_SEQUENCES = 500_000  # of planned epochs, 56 bytes each
SAMPLED_SEQUENCES = 5_000  # of the first epochs of a source, to know how many tokens prompts add


@dataclasses.dataclass(frozen=True)
class Block:
    """The segments of one block, int32 [n, 7]; those of row r are ``segments[starts[r]:starts[r + 1]]``."""

    segments: np.ndarray
    starts: np.ndarray


class Rows:
    """The endless row order of one split of a mixture. Thread-safe.

    Attributes:
      sources: those that have episodes in this split, as given; the column SOURCE is an index into it.
      length: tokens in a row. rows_per_block: rows that are planned together.
      fill: share of the row tokens that the quotas use.
    """

    def __init__(self, sources: Sequence[Source], length: int, seed: int, split: Split = "train") -> None:
        """Raises MixtureError if no source has episodes in the split."""
        self.sources, self.length, self.seed, self.split = sources, length, seed, split
        self._used = [number for number, source in enumerate(sources) if len(source.episodes[split])]
        if not self._used:
            raise MixtureError(f"no source has {split.replace('_', '-')} episodes; set held_out_episodes of a source")
        self._lock = threading.RLock()
        self._epochs: collections.OrderedDict[tuple[int, int], EpochPlan] = collections.OrderedDict()
        self._kept_sequences = 0
        self._blocks: collections.OrderedDict[int, Block] = collections.OrderedDict()
        self._epoch_tokens = {n: int(self._epoch(n, 0).before[-1]) for n in self._used}
        longest = sum(sources[n].longest_window(split) for n in self._used)
        self.rows_per_block = max(SMALLEST_BLOCK, 1 << (ROOM * longest // length).bit_length())
        room = self.rows_per_block * length
        total_share = sum(sources[n].share for n in self._used)
        # Of each token that a source gets, the part that goes to windows; the rest are prompts.
        self._window_part = {n: sources[n].share / total_share * self._windows_of_tokens(n) for n in self._used}
        self.fill = (room - longest) / room
        self._calibrate()

    def segments(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``start..stop-1``: their segments, int32 [n, 7], and each one's row, int64 [n], counted from 0."""
        tables, rows = [], []
        row = start
        while row < stop:
            number, first = divmod(row, self.rows_per_block)
            last = min(self.rows_per_block, first + stop - row)
            block = self.block(number)
            counts = np.diff(block.starts[first : last + 1])
            tables.append(block.segments[block.starts[first] : block.starts[last]])
            rows.append(np.repeat(np.arange(row - start, row - start + last - first), counts))
            row += last - first
        return np.concatenate(tables), np.concatenate(rows)

    def block(self, number: int) -> Block:
        """The plan of one block."""
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._plan_block(number)
                while len(self._blocks) > 4:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return self._blocks[number]

    def most(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At most how many patches and how many targets each segment has, int64 [n] each, from the plan alone."""
        patches, targets = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
        for number, source in enumerate(self.sources):
            mine = np.flatnonzero(table[:, SOURCE] == number)
            for episode, begin, end in ((EPISODE, BEGIN, END), (PROMPT_EPISODE, PROMPT_BEGIN, PROMPT_END)):
                tokens = (table[mine, end] - table[mine, begin]).astype(np.int64)
                most, least = source.index.units_in(table[mine, episode], table[mine, begin], table[mine, end])
                patches[mine] += most * source.index.patches_per_unit
                targets[mine] += tokens - least * source.index.idle_per_unit
        return patches, targets

    def epochs(self, rows: int) -> dict[int, float]:
        """How often a run of so many rows sees each source's data, by the index of the source."""
        windows = rows * self.length * self.fill
        return {n: windows * self._window_part[n] / max(self._epoch_tokens[n], 1) for n in self._used}

    def _plan_block(self, number: int) -> Block:
        table = self._sequences(number)
        lengths = _lengths(table)
        assignment = pack(lengths, self.length, self.rows_per_block)
        if (assignment < 0).any():
            table, assignment = self._place_rest(table, assignment)
        assignment = spread(assignment, self.rows_per_block)
        shuffled = draws.permutation(self.rows_per_block, self.seed, self.split, "rows", number)
        assignment = shuffled[assignment]
        order = np.argsort(assignment, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(assignment, minlength=self.rows_per_block))])
        return Block(table[order], starts)

    def _sequences(self, number: int) -> np.ndarray:
        """All sequences of a block, int32 [n, 7]: those whose windows begin in the sources' quotas."""
        tables = []
        for source in self._used:
            quota = int(
                self._window_part[source] * self.fill * self.rows_per_block * self.length * (1 << FRACTION_BITS)
            )
            position, stop = (number * quota) >> FRACTION_BITS, ((number + 1) * quota) >> FRACTION_BITS
            while position < stop:
                epoch, offset = divmod(position, self._epoch_tokens[source])
                plan = self._epoch(source, epoch)
                last = min(offset + stop - position, self._epoch_tokens[source])
                first_item, last_item = np.searchsorted(plan.before[:-1], [offset, last])
                tables.append(_table(source, plan, slice(first_item, last_item)))
                position += last - offset
        return np.concatenate(tables)

    def _place_rest(self, table: np.ndarray, assignment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts sequences without a row into the gaps; returns a longer table and the rows of its segments."""
        without_row = assignment < 0
        windows = table[:, END] - table[:, BEGIN]
        placed = _lengths(table)[~without_row].sum(dtype=np.int64)
        if placed + windows[without_row].sum(dtype=np.int64) > self.rows_per_block * self.length:
            # Prompts took the room of windows: this block goes without prompts.
            table = table.copy()
            table[:, [PROMPT_EPISODE, PROMPT_BEGIN, PROMPT_END]] = (-1, 0, 0)
            assignment = pack(windows, self.length, self.rows_per_block)
            without_row = assignment < 0
        kept, rows = table[~without_row], assignment[~without_row]
        gaps = self.length - np.bincount(rows, _lengths(kept), self.rows_per_block).astype(np.int64)
        pieces, piece_rows = [], []
        for segment in table[without_row]:
            segment = segment.copy()
            segment[[PROMPT_EPISODE, PROMPT_BEGIN, PROMPT_END]] = (-1, 0, 0)
            index = self.sources[segment[SOURCE]].index
            while segment[BEGIN] < segment[END]:
                row = int(np.argmax(gaps))
                assert gaps[row] > 0, "the quotas leave room for every window"
                end = min(int(segment[END]), int(segment[BEGIN] + gaps[row]))
                if end < segment[END]:
                    _, _, before = index.unit_range(int(segment[EPISODE]), end, end + 1)
                    end = before if before > segment[BEGIN] else end
                piece = segment.copy()
                piece[END] = segment[BEGIN] = end
                gaps[row] -= piece[END] - piece[BEGIN]
                pieces.append(piece)
                piece_rows.append(row)
        if not pieces:
            return kept, rows
        return np.concatenate([kept, pieces]), np.concatenate([rows, np.array(piece_rows, np.int32)])

    def _calibrate(self) -> None:
        """Lowers `fill` until sample blocks pack without cutting, with a few rows to spare."""
        goal = self.rows_per_block - max(2, self.rows_per_block // 250)
        for _ in range(8):
            needed = 0
            for number in range(CALIBRATION_BLOCKS):
                rows = pack(_lengths(self._sequences(number)), self.length)
                needed = max(needed, int(rows.max()) + 1)
            if needed <= goal:
                return
            self.fill *= goal / needed

    def _windows_of_tokens(self, source: int) -> float:
        """Window tokens per token of a source, prompts included; measured over its first epochs."""
        windows = prompts = sequences = epoch = 0
        if self.sources[source].rules.prompt_probability == 0:
            return 1.0
        while sequences < SAMPLED_SEQUENCES and epoch < 20:
            plan = self._epoch(source, epoch)
            windows += int(plan.before[-1])
            prompts += plan.prompt_tokens
            sequences += len(plan.episode)
            epoch += 1
        return windows / (windows + prompts)

    def _epoch(self, source: int, epoch: int) -> EpochPlan:
        with self._lock:
            key = (source, epoch)
            if key not in self._epochs:
                self._epochs[key] = self.sources[source].plan(self.split, self.seed, epoch)
                self._kept_sequences += len(self._epochs[key].episode)
                while self._kept_sequences > KEPT_SEQUENCES and len(self._epochs) > 2 * len(self._used):
                    self._kept_sequences -= len(self._epochs.popitem(last=False)[1].episode)
            self._epochs.move_to_end(key)
            return self._epochs[key]


def _lengths(table: np.ndarray) -> np.ndarray:
    """Tokens of each segment, its prompt included."""
    return table[:, END] - table[:, BEGIN] + table[:, PROMPT_END] - table[:, PROMPT_BEGIN]


def _table(source: int, plan: EpochPlan, part: slice) -> np.ndarray:
    """The segments of a stretch of an epoch, int32 [n, 7]."""
    columns = (plan.episode, plan.begin, plan.end, plan.prompt_episode, plan.prompt_begin, plan.prompt_end)
    table = np.empty((part.stop - part.start, 7), np.int32)
    table[:, SOURCE] = source
    for number, column in enumerate(columns, 1):
        table[:, number] = column[part]
    return table
