"""How the loader grows: many rows a second, many sources, many episodes, many minutes.

    python benchmarks/data_scale.py [--json FILE] [--minutes 10] [--quick]

- `five sources`: rows of 1,024 tokens a second with two threads, from vectors, 64 px and 224 px pictures, raw and JPEG;
- `600 sources`: CPU time a row of 600 small sources against 10 that hold the same episodes, in turns;
- `a million episodes`: seconds from nothing to the first batch, in a fresh process;
- `memory`: resident memory of the five-source loader over the minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from data_peers import CASES, write_case
from result_file import write_result

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

LENGTH, ROWS = 1024, 16
SPEC = EpisodeSpec.of({"x": LeafSpec("continuous", (8,))}, LeafSpec("continuous", (2,), low=-1.0, high=1.0))
FIRST_BATCH = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, {folder!r})
from data_scale import open_loader
next(open_loader([sys.argv[1]]))
print(time.perf_counter() - began)
"""


def open_loader(paths: list[str | Path], threads: int = 0, **options: Any) -> Loader:
    text = TextTokenizer.default()
    tokenizer = SequenceTokenizer(Vocabulary(text.size), text, Layout())
    configs = [SourceConfig(path, expert_filter=None) for path in paths]
    return Loader(configs, tokenizer, ROWS, LENGTH, seed=0, threads=threads, **options)


def write_vectors(folder: Path, episodes: int, steps: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    with StoreWriter(folder, folder.name, SPEC, {}) as writer:
        for _ in range(episodes):
            values = {"x": rng.normal(size=(steps, 8)).astype(np.float32)}
            actions = {"action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32)}
            writer.write(Episode(values, actions, np.zeros(steps, np.float32)))
    return folder


def rows_per_second(loader: Loader, seconds: float) -> float:
    for _ in range(8):
        next(loader)
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(loader)
        batches += 1
    return batches * ROWS / (time.perf_counter() - began)


def cpu_ms_per_row(loader: Loader, batches: int) -> float:
    began = time.process_time()
    for _ in range(batches):
        next(loader)
    return 1000 * (time.process_time() - began) / (batches * ROWS)


def resident() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def many_sources(folder: Path, many: int) -> dict[str, Any]:
    """600 sources of 20 episodes against 10 of 1,200."""
    loaders = {}
    for count in (10, many):
        episodes = 20 * many // count
        paths: list[str | Path] = [write_vectors(folder / f"{count}-{k}", episodes, 50, k) for k in range(count)]
        began = time.perf_counter()
        loaders[count] = open_loader(paths)
        cpu_ms_per_row(loaders[count], 40)
        print(f"  {count} sources: {time.perf_counter() - began:.1f} s to open and to make 40 batches", flush=True)
    found = [{count: cpu_ms_per_row(loader, 60) for count, loader in loaders.items()} for _ in range(7)]
    return {
        "case": f"{many} sources",
        "ms_per_row_10": statistics.median(one[10] for one in found),
        f"ms_per_row_{many}": statistics.median(one[many] for one in found),
        "ratio": statistics.median(one[many] / one[10] for one in found),
    }


def many_episodes(folder: Path, count: int) -> dict[str, Any]:
    path = write_vectors(folder / "many", count, 4, 0)
    script = FIRST_BATCH.format(folder=str(Path(__file__).parent))
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    return {"case": f"{count:,} episodes", "first_batch_seconds": statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the table to this file")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the memory's curve (default 10)")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it: shows that it runs, not what it costs")
    arguments = parser.parse_args()
    share = 0.01 if arguments.quick else 1.0
    rows: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        five: list[str | Path] = [
            write_case(folder / case.replace(" ", "-"), leaf, as_jpeg, 20) for case, (leaf, as_jpeg) in CASES.items()
        ]
        report({"case": "five sources", "rows_per_second": rows_per_second(open_loader(five, 2), 30 * share)})
        report(many_sources(folder, 60 if arguments.quick else 600))
        report(many_episodes(folder, round(1_000_000 * share)))
        loader = open_loader(five, 2)
        rows_per_second(loader, 20 * share)
        curve, began = [resident()], time.perf_counter()
        while time.perf_counter() - began < 60 * arguments.minutes * share:
            rows_per_second(loader, 10 * share)
            curve.append(resident())
        report(
            {
                "case": "memory",
                "minutes": arguments.minutes * share,
                "first_mb": curve[0],
                "last_mb": curve[-1],
                "most_mb": max(curve),
            }
        )
    write_result(arguments.json, rows, ("numpy", "pillow", "array_record", "grain"), memory_mb=curve)


if __name__ == "__main__":
    main()
