"""What each idea brings to the training step: the same work with one thing changed, all in turns in one run.

    python benchmarks/train_ideas.py [--quick] [--preset gato_79m] [--position transformer_xl] [--dtype float32]
        [--rows 2] [--length 1024] [--repeats 3] [--json FILE]

The work: rows of which 20 % are image patches and every fourth token has a target, about the paper's mixture. On a CPU
everything runs on one thread of one core. *times* is the step time over that of the first line, so above 1 the change
costs and the idea brings. Every round runs all of them once, and the best round of each counts; one round alone could
not tell what an idea brings from a slow minute of the machine.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
from train import Case, make_batch, pin_to_one_core, write_json

from gato.model.presets import preset
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.step import TrainState

IMAGES, TARGETS = 0.2, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gato_79m")
    parser.add_argument("--position", default="transformer_xl")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two layers, one repeat")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    pin_to_one_core()
    vocabulary = Vocabulary()
    changes = {"position": args.position, "dtype": args.dtype, **({"layers": 2} if args.quick else {})}
    config = preset(args.preset, vocabulary, **changes)
    batch = make_batch(vocabulary, args.rows, args.length, TARGETS, images=IMAGES)
    other_dtype = "bfloat16" if args.dtype == "float32" else "float32"
    other_position = "rope" if args.position == "transformer_xl" else "transformer_xl"
    # A row a segment, as without packing: the same tokens, and as much padding.
    halves = make_batch(vocabulary, 2 * args.rows, args.length, TARGETS, images=IMAGES, fill=0.5)
    cases = {
        "as it is": lambda: Case(config, batch),
        "head on every token, not on the targets": lambda: Case(config, batch, "dense"),
        "a patch slot for every token, not for every patch": lambda: Case(
            config, make_batch(vocabulary, args.rows, args.length, TARGETS, images=IMAGES, slots=1.0)
        ),
        "no packing: rows half full, twice as many": lambda: Case(config, halves),
        f"position {other_position}": lambda: Case(config.replace(position=other_position), batch),
        f"computed in {other_dtype}": lambda: Case(config.replace(dtype=other_dtype), batch),
        f"layers {'unrolled' if config.scan_layers else 'scanned'}": lambda: Case(
            config.replace(scan_layers=not config.scan_layers), batch
        ),
        "remat full": lambda: Case(config.replace(remat="full"), batch),
        "remat dots": lambda: Case(config.replace(remat="dots"), batch),
        "two micro-batches": lambda: Case(
            config, make_batch(vocabulary, args.rows, args.length, TARGETS, groups=2, images=IMAGES), accumulate=2
        ),
    }
    built: dict[str, Case] = {}
    states: dict[Any, TrainState] = {}  # one for all cases of the same parameters: to make one takes as long as a step

    def run(case: Case) -> None:
        parameters = jax.tree.structure(case.abstract)
        state = states.pop(parameters) if parameters in states else case.initial()
        states[parameters] = case.run(state)

    for name, make in cases.items():
        print(f"compiling: {name}", file=sys.stderr, flush=True)
        built[name] = make()
        run(built[name])
        built[name].best = float("inf")
    for repeat in range(1 if args.quick else args.repeats):
        print(f"round {repeat + 1}", file=sys.stderr, flush=True)
        for case in built.values():
            run(case)
    first = built["as it is"]
    device = jax.devices()[0].device_kind
    print(
        f"{args.preset}, {config.layers} layers, {args.rows} x {args.length} tokens ({IMAGES:.0%} image patches, "
        f"{TARGETS:.0%} targets), {args.dtype}, {device}"
    )
    print(f"{'':50}  compile s  step s  times  memory GB")
    rows: list[dict[str, Any]] = []
    for name, case in built.items():
        row = {"preset": args.preset, "case": name, **case.row(), "times": case.best / first.best}
        rows.append(row)
        print(f"{name:50}  {case.compile_seconds:9.1f}  {case.best:6.2f}  {row['times']:5.2f}  {case.bytes / 1e9:9.1f}")
    write_json(args.json, rows)


if __name__ == "__main__":
    main()
