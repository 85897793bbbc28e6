"""The demonstration page: a prompted agent acting in every suite, with films, out of a finished quickstart.

    python benchmarks/demonstration.py runs/two_hours docs/demonstration.md

The films go into a folder beside the page, named like it (docs/demonstration/). Of each suite it takes the tasks with
the best and the worst score; the film is that of the task's first episode, whether it went well or not.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from gato.data_pipelines.durations import duration
from gato.launch.quickstart import DEFAULT_BUDGET

TITLES = {
    "atari": "Atari, from pixels",
    "metaworld": "Meta-World, a robot arm from its state",
    "babyai": "BabyAI, a grid with a mission in words",
    "sokoban": "Sokoban, from pixels",
    "dm_control": "DM Control, torques from states",
}
INTRODUCTION = """# One network acts in five suites

All films below show the same network of {parameters} parameters with the same weights, {time} after
the quickstart began to collect demonstrations on {cores} CPU cores. Before each episode it is shown
{prompt}; nothing else says which task it is in. It then sees its observations only and writes its
actions, token by token, each from the ids that are legal for this embodiment.

The films are of the first of each task's {episodes} episodes, whether it went well or not, on seeds that no
demonstration used. Of each suite stand the task that the network does best and the one that it does worst. A score of
0 % is that of random actions, 100 % that of the demonstrations' expert.

See it yourself:

```
{command}
.venv/bin/gato evaluate {run} --prompt=end --episodes 20 --out {run}/again
```

The first command does all of it and ends with `{run}/report.html`. The second lets the same network play
again; `--tasks`, `--prompt=none` and `--seed` choose other tasks, prompts and episodes, each for another `--out`
([evaluation.md](evaluation.md)). How the scores come about, and those of shorter and other trainings, stand in
[results/quickstart_two_hours.md](results/quickstart_two_hours.md) and [results/quickstart.md](results/quickstart.md).
"""
PROMPTS = {"end": "the end of one demonstration", "beginning": "the beginning of one demonstration", "none": "nothing"}


def suite(task: str) -> str:
    return task.split("/", maxsplit=1)[0]


def chosen(tasks: dict[str, Any]) -> dict[str, list[str]]:
    """The best and the worst task of each suite; one where there is no other."""
    scored: dict[str, list[str]] = {}
    for task, entry in tasks.items():
        if entry["normalised"] is not None:
            scored.setdefault(suite(task), []).append(task)
    ranked = {name: sorted(own, key=lambda task: -tasks[task]["normalised"]) for name, own in scored.items()}
    return {name: list(dict.fromkeys((own[0], own[-1]))) for name, own in ranked.items()}


def section(name: str, own: list[str], tasks: dict[str, Any], gifs: Path, films: Path) -> list[str]:
    """A suite's films side by side, each above its scores."""
    cells = []
    for task in own:
        film = f"{task.replace('/', '__')}.gif"
        shutil.copyfile(gifs / film, films / film)
        entry = tasks[task]
        words = "success" if entry["metric"] == "success" else "return"
        cells.append(
            f'<td align="center"><img src="{films.name}/{film}" width="240" alt="the agent in {task}"><br>'
            f"<b>{task}</b><br>"
            f"{words} {entry['score']:.3g} (random {entry['random']:.3g}, expert {entry['expert']:.3g})<br>"
            f"{entry['normalised']:.0f} % [{entry['normalised_low']:.0f}, {entry['normalised_high']:.0f}]</td>"
        )
    return [f"## {TITLES.get(name, name)}", "", "<table><tr>", *cells, "</tr></table>", ""]


def command(run: Path, budget: float) -> str:
    """The one that made the run."""
    if budget == DEFAULT_BUDGET:
        return "make quickstart"
    return f'make quickstart ARGS="--budget={budget / 3600:g}h --out {run}"'


def page(run: Path, target: Path) -> str:
    """The page's Markdown; its films are copied beside it."""
    folder = run / "evaluation"
    summary = json.loads((folder / "summary.json").read_text())
    journal = json.loads((run / "timings.json").read_text())
    parameters = (run / "parameters.txt").read_text().split()[0]
    films = target.with_suffix("")
    shutil.rmtree(films, ignore_errors=True)
    films.mkdir(parents=True)
    protocol = summary["protocol"]
    lines = [
        INTRODUCTION.format(
            parameters=parameters,
            time=duration(sum(journal["stages"].values())),
            command=command(run, journal["settings"]["budget"]),
            run=run,
            cores=journal["machine"]["cores"],
            prompt=PROMPTS[protocol["prompt"]],
            episodes=protocol["episodes"],
        )
    ]
    for name, own in chosen(summary["tasks"]).items():
        lines += section(name, own, summary["tasks"], folder / "gifs", films)
    lines += [
        f"Seed {summary['seed']}, step {summary['checkpoint_step']:,}; in brackets intervals of 95 %, over episodes.",
        f"Made by `python benchmarks/demonstration.py {run} docs/{target.name}`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished quickstart")
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    arguments.page.write_text(page(arguments.run, arguments.page))


if __name__ == "__main__":
    main()
