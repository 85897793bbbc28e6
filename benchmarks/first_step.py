"""What a user waits for first: from starting Python to a training step that can run, with and without compiled programs
kept from an earlier run.

    python benchmarks/first_step.py [--preset tiny quickstart gato_79m ...] [--rows 2] [--length 1024] [--json FILE]

Each line is a fresh process. *cold* starts with an empty compilation cache (`gato.training.setup`), *warm* is the same
process again. *run* is one step after that, for the presets whose state fits this machine's memory comfortably; peak
memory is of the cold process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from result_file import write_result

CACHE_SETTINGS = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")

CHILD = """
import json, resource, sys, time
began = time.perf_counter()
sys.path.insert(0, {folder!r})
from train import Case, make_batch
import jax
from gato.model.presets import count_parameters, preset
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.setup import enable_compilation_cache

enable_compilation_cache()
name, rows, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.devices()
imported = time.perf_counter()
case = Case(preset(name, Vocabulary()), make_batch(Vocabulary(), rows, length, 0.25))
compiled = time.perf_counter()
fits = count_parameters(name) < 5e8
if fits:
    case.run(case.initial())
found = {{
    "import": imported - began,
    "compile": compiled - imported,
    "run": time.perf_counter() - compiled if fits else None,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}}
print(json.dumps(found))
"""


def measure(preset: str, rows: int, length: int, cache: str) -> dict[str, Any]:
    code = CHILD.format(folder=str(Path(__file__).parent))
    # As a user has it, in a cache of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CACHE_SETTINGS)}
    environment["GATO_COMPILATION_CACHE"] = cache
    command = [sys.executable, "-c", code, preset, str(rows), str(length)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", nargs="+", default=["tiny", "quickstart", "gato_79m", "gato_364m", "gato_1_2b"], metavar="NAME"
    )
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print("preset      start  import s  compile s  run s  peak memory GB")
    rows: list[dict[str, Any]] = []
    for name in args.preset:
        with tempfile.TemporaryDirectory() as cache:
            for start in ("cold", "warm"):
                found = measure(name, args.rows, args.length, cache)
                rows.append({"preset": name, "start": start, **found})
                run = "" if found["run"] is None else f"{found['run']:5.1f}"
                print(
                    f"{name:10}  {start:5}  {found['import']:8.1f}  {found['compile']:9.1f}  {run:>5}  "
                    f"{found['peak_bytes'] / 1e9:14.1f}",
                    flush=True,
                )
    write_result(args.json, rows, ("jax", "jaxlib", "flax"))


if __name__ == "__main__":
    main()
