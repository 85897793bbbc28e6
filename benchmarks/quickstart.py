"""The result page of the quickstart: scores and times of finished runs, side by side, as Markdown.

python benchmarks/quickstart.py runs/seed0 runs/seed1 runs/seed2 > docs/results/quickstart.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "flax", "optax", "mujoco", "metaworld", "dm_control", "minigrid", "ale-py")
STAGES = ("collect", "tokenizer", "train", "evaluate", "report")


def number(value: float | None) -> str:
    """Two decimals for rates, none for returns."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 20 else f"{value:.0f}"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def scores(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """One line a task: each run's score, their mean, and what it is compared with."""
    seeds = [f"seed {summary['seed']}" for summary in summaries]
    lines = [
        row(["task", *seeds, "mean", "specialists", "random", "expert", "control"]),
        row(["---", *["---:"] * (len(seeds) + 4), "---"]),
    ]
    for task, first in summaries[0]["tasks"].items():
        entries = [summary["tasks"][task] for summary in summaries]
        values = [entry["score"] for entry in entries]
        rivals = [entry["specialist"] for entry in entries if entry.get("specialist") is not None]
        controls = [
            f"{name}: " + ", ".join(number(entry["controls"][name]) for entry in entries)
            for name in first.get("controls", {})
        ]
        rival = sum(rivals) / len(rivals) if rivals else None
        against = [number(rival), number(first["random"]), number(first["expert"]), "; ".join(controls)]
        lines.append(row([task, *map(number, values), f"**{number(sum(values) / len(values))}**", *against]))
    for suite in summaries[0]["suites"]:
        values = [summary["suites"][suite] for summary in summaries]
        lines.append(row([f"{suite}, normalised", *map(number, values), number(sum(values) / len(values)), *[""] * 4]))
    for source, first in summaries[0]["captions"].items():
        metric = next(name for name in ("object_f1", "accuracy") if name in first)
        values = [summary["captions"][source][metric] for summary in summaries]
        shuffled = [summary["captions"][source][f"shuffled_{metric}"] for summary in summaries]
        control = "shuffled images: " + ", ".join(map(number, shuffled))
        mean = f"**{number(sum(values) / len(values))}**"
        lines.append(row([f"{source}, {metric}", *map(number, values), mean, "", "", "", control]))
    return lines


def times(runs: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> list[str]:
    """One line a stage: seconds of each run."""
    timings = [json.loads((run / "timings.json").read_text()) for run in runs]
    lines = [row(["stage", *[f"seed {s['seed']}" for s in summaries]]), row(["---", *["---:"] * len(runs)])]
    for stage in STAGES:
        lines.append(row([f"{stage}, s", *[f"{timing['stages'][stage]:.0f}" for timing in timings]]))
    lines.append(row(["all, s", *[f"{sum(timing['stages'].values()):.0f}" for timing in timings]]))
    lines.append(row(["training steps", *[str(summary["checkpoint_step"]) for summary in summaries]]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of `gato quickstart`")
    runs = parser.parse_args().runs
    summaries = [json.loads((run / "evaluation" / "summary.json").read_text()) for run in runs]
    machine = json.loads((runs[0] / "timings.json").read_text())["machine"]
    print("\n".join(scores(summaries)))
    print()
    print("\n".join(times(runs, summaries)))
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"\n{machine['cores']} cores ({machine['processor']}), Python {machine['python']}, {versions}.")


if __name__ == "__main__":
    main()
