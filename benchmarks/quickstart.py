"""The result page of the quickstart: goals, scores and times of finished runs, side by side, as Markdown.

    python benchmarks/quickstart.py runs/quickstart runs/seed1 runs/seed2 > docs/results/quickstart.md
    python benchmarks/quickstart.py runs/two_hours > docs/results/quickstart_two_hours.md

With a budget of an hour and more the network has to come near the specialists of its run. Why the quickstart is as it
is stands in docs/results/quickstart_choices.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gato.launch.quickstart import HOURS

PACKAGES = ("jax", "flax", "optax", "mujoco", "metaworld", "dm_control", "minigrid", "ale-py")
INTRODUCTION = """# Quickstart: measured results

{command}. 20 episodes a task on seeds that no demonstration used, prompted with the last
timestep of a held-out demonstration. The installation comes on top, once. *Specialists*: a small network for each task,
trained on the same demonstrations (where there are more than 60,000 timesteps, on so many of them). Why things are as
they are, with what was tried: [quickstart_choices.md](quickstart_choices.md).
"""
SHORT = """`make quickstart` in a clean clone with an empty environment, then `gato quickstart --seed 1 --out
runs/seed1` and so on, each with nothing else running"""
LONG = """`make quickstart ARGS="--budget={budget} --out runs/two_hours"` in a clean clone with an empty environment:
the network of the default budget, trained for longer, with more demonstrations of continuous control and more of the
tokens for them (`launch/configs/quickstart_hours.py`)"""
Summary = dict[str, Any]
Goal = tuple[str, Callable[[Summary], str], Callable[[Summary], bool]]  # words, what a run reached, whether enough
NEAR = 0.9  # of the specialist
STAGES = ("collect", "tokenizer", "train", "evaluate", "report")


def number(value: float | None) -> str:
    """Two decimals for rates, none for returns."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 20 else f"{value:.0f}"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def scores(summaries: Sequence[Summary]) -> list[str]:
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


def score(summary: Summary, task: str) -> float:
    return float(summary["tasks"][task]["score"])


def meta_world(summary: Summary) -> float:
    scores = [entry["score"] for task, entry in summary["tasks"].items() if task.startswith("metaworld/")]
    return sum(scores) / len(scores)


def captions(summary: Summary, name: str) -> float:
    return float(summary["captions"]["captions/rooms"][name])


def goals() -> list[Goal]:
    """What the quickstart has to reach."""

    def control(summary: Summary, task: str, name: str) -> float:
        return float(summary["tasks"][task]["controls"][name])

    def of_expert(summary: Summary, task: str) -> float:
        return score(summary, task) / summary["tasks"][task]["expert"]

    opening, picking, sokoban, breakout = "babyai/OpenDoor", "babyai/PickupLoc", "sokoban/7x7-1box", "atari/breakout"
    point = "dm_control/point_mass-easy"
    return [
        ("Meta-World, mean success >= 0.60", lambda s: number(meta_world(s)), lambda s: meta_world(s) >= 0.60),
        ("BabyAI OpenDoor >= 0.75", lambda s: number(score(s, opening)), lambda s: score(s, opening) >= 0.75),
        ("BabyAI PickupLoc >= 0.40", lambda s: number(score(s, picking)), lambda s: score(s, picking) >= 0.40),
        (
            "PickupLoc with a wrong mission at least 0.15 lower",
            lambda s: number(control(s, picking, "wrong mission")),
            lambda s: round(score(s, picking) - control(s, picking, "wrong mission"), 6) >= 0.15,
        ),
        (
            f"{point} >= 60 % of its expert",
            lambda s: f"{100 * of_expert(s, point):.0f} %",
            lambda s: of_expert(s, point) >= 0.6,
        ),
        ("Sokoban 7x7 one box >= 0.40", lambda s: number(score(s, sokoban)), lambda s: score(s, sokoban) >= 0.40),
        (
            "Breakout above random and above blank frames",
            lambda s: f"{number(score(s, breakout))} (blank {number(control(s, breakout, 'blank'))})",
            lambda s: score(s, breakout) > max(s["tasks"][breakout]["random"], control(s, breakout, "blank")),
        ),
        (
            "captions of held-out scenes, object F1 >= 0.80",
            lambda s: number(captions(s, "object_f1")),
            lambda s: captions(s, "object_f1") >= 0.80,
        ),
        (
            "the same with shuffled images, near 0.2",
            lambda s: number(captions(s, "shuffled_object_f1")),
            lambda s: captions(s, "shuffled_object_f1") <= 0.3,
        ),
    ]


def long_goals(first: Summary) -> list[Goal]:
    """What it has to reach in two hours: nearly what the specialists do, which saw one task each."""

    def near(task: str) -> Goal:
        def rival(summary: Summary) -> float:
            return float(summary["tasks"][task]["specialist"])

        return (
            f"{task} within 10 % of its specialist",
            lambda s: f"{number(score(s, task))} of {number(rival(s))}",
            lambda s: score(s, task) >= NEAR * rival(s),
        )

    rivals = [task for task, entry in first["tasks"].items() if entry.get("specialist") is not None]
    return [
        ("Meta-World, mean success >= 0.85", lambda s: number(meta_world(s)), lambda s: meta_world(s) >= 0.85),
        *(near(task) for task in rivals if not task.startswith("metaworld/")),
        (
            "captions of held-out scenes, object F1 >= 0.87",
            lambda s: number(captions(s, "object_f1")),
            lambda s: captions(s, "object_f1") >= 0.87,
        ),
    ]


def against_goals(summaries: Sequence[Summary], goals: Sequence[Goal]) -> list[str]:
    """One line a goal: what each run reached, and in how many runs it is enough."""
    lines = [row(["goal", *[f"seed {s['seed']}" for s in summaries], "reached"])]
    lines.append(row(["---", *["---:"] * len(summaries), "---"]))
    for words, show, enough in goals:
        met = sum(enough(summary) for summary in summaries)
        reached = "yes" if met == len(summaries) else f"**{met} of {len(summaries)} seeds**"
        lines.append(row([words, *map(show, summaries), reached]))
    return lines


def times(runs: Sequence[Path], summaries: Sequence[Summary]) -> list[str]:
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
    budget = json.loads((runs[0] / "timings.json").read_text())["settings"]["budget"]
    long = budget >= HOURS
    tree = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    finished = datetime.date.fromtimestamp(max((run / "timings.json").stat().st_mtime for run in runs))
    command = " ".join(["python", "benchmarks/quickstart.py", *sys.argv[1:]])
    print(INTRODUCTION.format(command=LONG.format(budget=f"{budget / 3600:g}h") if long else SHORT))
    print(f"{finished:%-d %B %Y}, commit {commit.stdout.strip() or 'unknown'}; made by `{command}`.\n")
    for title, lines in (
        ("Against the goals", against_goals(summaries, long_goals(summaries[0]) if long else goals())),
        ("Scores", scores(summaries)),
        ("Times", times(runs, summaries)),
    ):
        print(f"## {title}\n")
        print("\n".join(lines) + "\n")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{machine['cores']} cores ({machine['processor']}), Python {machine['python']}, {versions}.")


if __name__ == "__main__":
    main()
