"""The loader against its floor, torch's DataLoader and tf.data: CPU milliseconds a row of 1,024 tokens, in one run.

    python benchmarks/data_peers.py [--json FILE] [--rounds 5] [--seconds 3]

Each case is one store of long episodes, read from disk every time (no cache of tokens). *floor*: the bare reading,
decoding and tokenizing of exactly the rows that the loader makes, one after the other. *loader*: whole batches as
training gets them, without threads. *torch*: a map-style Dataset over the same store whose items are the floor's work
and the padding to a row, and torch's own DataLoader without workers. *tf.data*: the same episodes as TFRecords, read in
their order and tokenized with TensorFlow's operations (`data_tensorflow.py`). Each is left out where its package is not
installed. All take turns in every round, and the ratios are medians over the rounds: CPU time of the process, which
other programs disturb least.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_tensorflow
import numpy as np
from PIL import Image
from result_file import write_result

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.rows import BEGIN, END, EPISODE
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

LENGTH, ROWS, STEPS = 1024, 8, 200
PEERS = ("torch", "tf.data")
ACTION = LeafSpec("continuous", (6,), low=-1.0, high=1.0)
CASES = {
    "vectors": (LeafSpec("continuous", (39,)), False),
    "64 px raw": (LeafSpec("image", (64, 64, 3)), False),
    "64 px JPEG": (LeafSpec("image", (64, 64, 3)), True),
    "224 px raw": (LeafSpec("image", (224, 224, 3)), False),
    "224 px JPEG": (LeafSpec("image", (224, 224, 3)), True),
}


def write_case(folder: Path, leaf: LeafSpec, as_jpeg: bool, episodes: int) -> Path:
    """Episodes of smooth random pictures (noise is what no camera sees), or of random vectors."""
    rng = np.random.default_rng(0)
    spec = EpisodeSpec.of({"seen": leaf}, ACTION)
    with StoreWriter(folder, folder.name, spec, {}, jpeg=("seen",) if as_jpeg else ()) as writer:
        for _ in range(episodes):
            if leaf.modality == "image":
                small = rng.integers(256, size=(STEPS, 12, 12, 3), dtype=np.uint8)
                size = leaf.shape[1::-1]
                seen = np.stack(
                    [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in small]
                )
            else:
                seen = rng.normal(size=(STEPS, *leaf.shape)).astype(np.float32)
            actions = {"action": rng.uniform(-1, 1, (STEPS, 6)).astype(np.float32)}
            writer.write(Episode({"seen": seen}, actions, np.zeros(STEPS, np.float32)))
    return folder


class Case:
    """One store with its ways to be read; each way is a function that makes the next batch of rows."""

    def __init__(self, path: Path, leaf: LeafSpec, as_jpeg: bool) -> None:
        text = TextTokenizer.default()
        self._tokenizer = SequenceTokenizer(Vocabulary(text.size), text, Layout())
        config = SourceConfig(path, prompt_probability=0.0, expert_filter=None)
        self._loader = Loader([config], self._tokenizer, ROWS, LENGTH, seed=0, threads=0, cache_bytes=0)
        self._loader.probe()
        self._store, self._index = self._loader.sources[0].store, self._loader.sources[0].index
        self.ways: dict[str, Callable[[], Any]] = {"floor": self._floor(), "loader": lambda: next(self._loader)}
        if importlib.util.find_spec("torch"):
            self.ways["torch"] = self._torch()
        if importlib.util.find_spec("tensorflow"):
            file = path.with_suffix(".tfrecord")
            data_tensorflow.write_records(self._store, leaf, as_jpeg, file)
            self.ways["tf.data"] = data_tensorflow.batches(file, leaf, as_jpeg, ACTION.size, ROWS, LENGTH)

    def _segments(self, row: int) -> np.ndarray:
        return self._loader.rows.segments(row, row + 1)[0]

    def _tokens(self, segment: np.ndarray) -> Any:
        episode = int(segment[EPISODE])
        start, stop, before = self._index.unit_range(episode, int(segment[BEGIN]), int(segment[END]))
        part = self._store.episode(episode, start, stop)
        sequence = self._tokenizer.tokenize(part.observations, part.actions, self._store.spec)
        return sequence, int(segment[BEGIN]) - before, int(segment[END]) - before

    def _floor(self) -> Callable[[], Any]:
        rows = iter(range(1 << 40))

        def batch() -> list[Any]:
            return [self._tokens(segment) for _ in range(ROWS) for segment in self._segments(next(rows))]

        return batch

    def _torch(self) -> Callable[[], Any]:
        import torch

        case = self

        class Dataset(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return 1 << 20

            def __getitem__(self, row: int) -> dict[str, np.ndarray]:
                return case._row(row)

        def collate(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
            joined: dict[str, Any] = {}
            for name in rows[0]:
                join = np.concatenate if name == "patches" else np.stack
                joined[name] = torch.from_numpy(join([row[name] for row in rows]))
            return joined

        batches: Iterator[Any] = iter(torch.utils.data.DataLoader(Dataset(), batch_size=ROWS, collate_fn=collate))
        return lambda: next(batches)

    def _row(self, row: int) -> dict[str, np.ndarray]:
        """One padded row: what the model and a dense loss need of it, and no more."""
        ids, weight = np.zeros(LENGTH, np.int32), np.zeros(LENGTH, np.float32)
        local, segments = np.full(LENGTH, -1, np.int16), np.zeros(LENGTH, np.int32)
        patch_index, positions = np.full(LENGTH, -1, np.int32), np.zeros(LENGTH, np.int32)
        intervals = np.zeros((LENGTH, 4), np.int16)
        patches = [np.zeros((0, 16, 16, 3), np.uint8)]  # a row may be spare
        at = count = 0
        for number, segment in enumerate(self._segments(row), 1):
            sequence, begin, end = self._tokens(segment)
            span = slice(at, at + end - begin)
            ids[span], weight[span] = sequence.ids[begin:end], sequence.loss_weight[begin:end]
            local[span], segments[span] = sequence.local_position[begin:end], number
            positions[span] = np.arange(end - begin)
            index = sequence.patch_index[begin:end]
            patch_index[span] = np.where(index >= 0, index + count, -1)
            if len(sequence.patches):
                intervals[span][index >= 0] = sequence.patch_intervals[index[index >= 0]]
            patches.append(sequence.patches)
            count += len(sequence.patches)
            at = span.stop
        return {
            "ids": ids,
            "loss_weight": weight,
            "local_position": local,
            "segment_ids": segments,
            "positions": positions,
            "patch_index": patch_index,
            "patch_intervals": intervals,
            "patches": np.concatenate(patches),
        }


def cpu_ms_per_row(batch: Callable[[], Any], seconds: float) -> float:
    """Of one way: for at least so many seconds."""
    batch()
    began, wall, batches = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        batch()
        batches += 1
    return 1000 * (time.process_time() - began) / (batches * ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the table to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way in each round")
    parser.add_argument("--episodes", type=int, default=20, help="in each store")
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'':14}{'floor ms':>9}  {'loader ms':>9}{'of floor':>10}"
        + "".join(f"{p + ' ms':>12}{'ratio':>8}" for p in PEERS)
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, (leaf, as_jpeg) in CASES.items():
            path = write_case(Path(folder) / name.replace(" ", "-"), leaf, as_jpeg, arguments.episodes)
            case = Case(path, leaf, as_jpeg)
            found = [
                {way: cpu_ms_per_row(batch, arguments.seconds) for way, batch in case.ways.items()}
                for _ in range(arguments.rounds)
            ]
            row: dict[str, Any] = {"case": name}
            for way in case.ways:
                row[f"{way}_ms"] = statistics.median(one[way] for one in found)
                if way != "loader":
                    row[f"of_{way}"] = statistics.median(one["loader"] / one[way] for one in found)
            rows.append(row)
            peers = [
                f"{row[f'{peer}_ms']:12.3f}{row[f'of_{peer}']:8.2f}" if peer in case.ways else f"{'–':>12}{'–':>8}"
                for peer in PEERS
            ]
            own = f"{row['floor_ms']:9.3f}  {row['loader_ms']:9.3f}{row['of_floor']:10.2f}"
            print(f"{name:14}{own}{''.join(peers)}", flush=True)
    packages = ("numpy", "pillow", "array_record", "grain", "torch", "tensorflow", "tensorflow-cpu")
    write_result(arguments.json, rows, packages)


if __name__ == "__main__":
    main()
