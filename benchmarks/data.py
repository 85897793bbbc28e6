"""What feeding a training step costs: CPU milliseconds a batch and rows a second, on synthetic mixtures.

    python benchmarks/data.py [--json FILE] [--batches N]

`quickstart`: short windows of many small sources, as the starter mixture has them, everything in the cache. `long`:
rows of 1,024 tokens from long episodes, read from disk; the camera's pixels are noise, which nothing compresses. CPU
time is of the whole process; the first batches, which tokenize the episodes, are reported apart.

How much more that is than the floor (reading, decoding and tokenizing alone), than torch's DataLoader and than tf.data
is what `data_peers.py` measures; how it grows with sources, episodes and minutes, `data_scale.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from result_file import write_result

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

WORDS = (
    "go",
    "to",
    "the",
    "red",
    "blue",
    "green",
    "ball",
    "key",
    "door",
    "pick",
    "up",
    "and",
    "then",
    "open",
    "a",
    "box",
)
ROBOT = EpisodeSpec.of({"state": LeafSpec("continuous", (14,))}, LeafSpec("continuous", (4,), low=-1.0, high=1.0))
GRID = EpisodeSpec.of(
    {"grid": LeafSpec("discrete", (49,), values=512), "mission": LeafSpec("text")}, LeafSpec("discrete", values=7)
)
TILES = EpisodeSpec.of({"image": LeafSpec("image", (80, 80, 3))}, LeafSpec("discrete", values=4))
CAMERA = EpisodeSpec.of({"image": LeafSpec("image", (80, 64, 3))}, LeafSpec("continuous", (6,), low=-1.0, high=1.0))
TEXT = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
CAPTION = EpisodeSpec.of({"image": LeafSpec("image", (64, 64, 3)), "text": LeafSpec("text")}, {}, "document")


def episode(rng: np.random.Generator, spec: EpisodeSpec, steps: int) -> Episode:
    """Random values; an image is a few repeated tiles, or noise if its spec is CAMERA."""

    def leaf(leaf_spec: LeafSpec) -> object:
        if leaf_spec.modality == "text":
            words = 6 if spec.kind == "control" else int(rng.integers(10, 60))
            return [" ".join(rng.choice(WORDS, words))] * steps
        if leaf_spec.modality == "discrete":
            return rng.integers(0, leaf_spec.values or 1, (steps, *leaf_spec.shape))
        if leaf_spec.modality == "continuous":
            return rng.uniform(-1, 1, (steps, *leaf_spec.shape)).astype(np.float32)
        if spec is CAMERA:
            return rng.integers(0, 256, (steps, *leaf_spec.shape), np.uint8)
        height, width, channels = leaf_spec.shape
        tiles = rng.integers(0, 4, (steps, height // 16, width // 16, 1)).repeat(16, 1).repeat(16, 2)
        return (tiles * 60).repeat(channels, 3).astype(np.uint8)

    return Episode(
        {path: leaf(leaf_spec) for path, leaf_spec in spec.observations.items()},
        {path: leaf(leaf_spec) for path, leaf_spec in spec.actions.items()},
        np.full(steps, 1 / steps, np.float32),
    )


def write(root: Path, name: str, spec: EpisodeSpec, episodes: int, steps: int) -> Path:
    rng = np.random.default_rng(len(name) + episodes)
    with StoreWriter(root / name, name, spec, {"task": name}) as writer:
        for _ in range(episodes):
            writer.write(episode(rng, spec, 1 if spec.kind == "document" else int(rng.integers(steps // 2, steps + 1))))
    return root / name


def quickstart(root: Path) -> list[SourceConfig]:
    sources = [(f"robot{k}", ROBOT, 40, 100, 1.0) for k in range(10)]
    sources += [(f"grid{k}", GRID, 200, 12, 1.5) for k in range(4)]
    sources += [("tiles", TILES, 300, 14, 2.0), ("text", TEXT, 500, 1, 1.0), ("captions", CAPTION, 300, 1, 2.0)]
    return [
        SourceConfig(
            write(root, name, spec, episodes, steps), weight, window_timesteps=None if spec.kind == "document" else 1
        )
        for name, spec, episodes, steps, weight in sources
    ]


def long_rows(root: Path) -> list[SourceConfig]:
    sources = [("robot", ROBOT, 100, 500, 1.0), ("grid", GRID, 200, 60, 1.0), ("camera", CAMERA, 20, 400, 1.0)]
    return [SourceConfig(write(root, *source), weight) for *source, weight in sources]


def measure(name: str, loader: Loader, batch_size: int, length: int, batches: int) -> dict[str, object]:
    start = time.process_time()
    loader.probe()
    for _ in range(8):
        next(loader)
    first = time.process_time() - start
    cpu, wall = time.process_time(), time.perf_counter()
    used = sum(int((next(loader)["segment_ids"] > 0).sum()) for _ in range(batches))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "mixture": name,
        "batch_size": batch_size,
        "length": length,
        "cpu_ms_per_batch": round(1000 * cpu / batches, 3),
        "cpu_ms_per_1024_tokens": round(1000 * cpu / (batches * batch_size * length / 1024), 4),
        "rows_per_second": round(batches * batch_size / wall, 1),
        "fill": round(used / (batches * batch_size * length), 4),
        "first_batches_cpu_s": round(first, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    parser.add_argument("--batches", type=int, default=300, help="how many to measure (default 300)")
    options = parser.parse_args()
    tokenizer = SequenceTokenizer(Vocabulary(), TextTokenizer.default(), Layout())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        mixtures = {"quickstart": quickstart(Path(folder) / "q"), "long": long_rows(Path(folder) / "l")}
        for name, batch_size, length, cache in (
            ("quickstart", 32, 128, 512 << 20),
            ("quickstart", 64, 256, 512 << 20),
            ("long", 8, 1024, 0),
        ):
            start = time.process_time()
            loader = Loader(mixtures[name], tokenizer, batch_size, length, 0, threads=0, cache_bytes=cache)
            opened = round(time.process_time() - start, 2)
            row = measure(name, loader, batch_size, length, options.batches) | {"open_cpu_s": opened}
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_result(options.json, rows, ("numpy", "grain", "array-record"))


if __name__ == "__main__":
    main()
