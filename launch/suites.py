"""``gato suites``: which suites there are, what is installed, and the tasks of one with their scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gato.data_pipelines.environments import catalogue, references, registry
from gato.data_pipelines.environments.base import MissingSuiteError, SuiteError, install_command
from gato.evaluation.report_charts import number
from gato.launch.scores import PIPED_WIDTH


def run(arguments: argparse.Namespace) -> None:
    """Prints the overview, or the tasks of ``arguments.suite``; as JSON with ``--json``."""
    if arguments.suite is None:
        suites = [_suite_entry(name) for name in registry.suite_names()]
        _show(suites, arguments.json, _overview)
        return
    tasks = [_task_entry(name) for name in registry.suite_tasks(arguments.suite)]
    _show(tasks, arguments.json, _tasks)


def _suite_entry(name: str) -> dict[str, Any]:
    """What the overview says of one suite. No simulator is loaded for our own."""
    entry: dict[str, Any] = {"name": name, "description": "", "tasks": None, "missing": [], "install": "", "extra": ""}
    entry["error"] = ""
    try:
        suite = registry.get_suite(name)
        entry |= {"description": suite.description, "missing": suite.missing(), "extra": suite.extra}
        entry["install"] = install_command(suite.extra) if suite.extra else suite.install
        if not entry["missing"] or catalogue.task_names(name):
            entry["tasks"] = len(registry.suite_tasks(name))
    except (SuiteError, MissingSuiteError) as error:
        entry["error"] = str(error)
    return entry | {"installed": not (entry["missing"] or entry["error"])}


def _task_entry(name: str) -> dict[str, Any]:
    """What the list of a suite says of one task: from the catalogue, or, for suites of others, from the task itself."""
    about = catalogue.load_catalogue().get(name.partition("/")[0], {}).get(name)
    if about is not None:
        scores, sources = references.reference_scores(name), references.reference_sources(name)
    else:
        task = registry.get_task(name)
        about, scores, sources = catalogue.describe(task), (task.random_score, task.expert_score), {}
    random, expert = (None if score != score else score for score in scores)
    entry = {"name": name, **about, "random": random, "expert": expert, "sources": sources}
    published = references.other_protocols(name)
    return entry | ({"other_protocols": published} if published else {})


def _show(entries: list[dict[str, Any]], as_json: bool, table: Any) -> None:
    if as_json:
        print(json.dumps(entries, indent=1))
        return
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    table(entries, console)


def _overview(suites: list[dict[str, Any]], console: Console) -> None:
    table = Table("suite", "tasks", "installed", "what", box=None, pad_edge=False)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.columns[1].justify = "right"
    for suite in suites:
        installed = "yes" if suite["installed"] else "broken" if suite["error"] else "no"
        tasks = "–" if suite["tasks"] is None else str(suite["tasks"])
        table.add_row(suite["name"], tasks, installed, escape(suite["error"] or suite["description"]))
    console.print(table)
    missing = [suite for suite in suites if suite["missing"]]
    for suite in missing:
        if not suite["install"]:
            console.print(
                f"\n{suite['name']} needs {', '.join(suite['missing'])}; its package names no command for that"
            )
    known = [suite for suite in missing if suite["install"]]
    if known:
        where = " (in the checkout)" if any(suite["extra"] for suite in known) else ""
        names = ", ".join(suite["name"] for suite in known)
        console.print(f"\nto install {names}{where}:\n  {escape(_one_command(known))}", soft_wrap=True)


def _one_command(suites: list[dict[str, Any]]) -> str:
    """What installs all that these suites lack: our extras at once, and after that what others name."""
    extras = sorted({suite["extra"] for suite in suites if suite["extra"]})
    others = dict.fromkeys(suite["install"] for suite in suites if not suite["extra"])
    return " && ".join([*([install_command(*extras)] if extras else []), *others])


def _tasks(tasks: list[dict[str, Any]], console: Console) -> None:
    columns = ("task", "observations -> actions", "metric", "steps", "random", "expert", "from")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = column.header not in ("task", "observations -> actions")
        column.justify = "right" if column.header in ("steps", "random", "expert") else "left"
    table.columns[0].overflow = "fold"
    instructions = {}
    for task in tasks:
        scores = [("–" if task[key] is None else number(task[key])) for key in ("random", "expert")]
        source = ", ".join(dict.fromkeys(task["sources"].values())) or "–"
        spec = escape(f"{task['observations']} -> {task['actions']}")
        table.add_row(task["name"], spec, task["metric"], f"{task['max_steps']:,}", *scores, source)
        if "instruction" in task:
            instructions[task["name"]] = task["instruction"]
    console.print(table)
    if instructions:
        console.print("\nan instruction of each:")
        for name, instruction in instructions.items():
            console.print(f"  {name}: {escape(instruction)}", soft_wrap=True)
    _print_sources(tasks, console)


def _print_sources(tasks: list[dict[str, Any]], console: Console) -> None:
    keys = sorted({source for task in tasks for source in task["sources"].values()})
    known: Mapping[str, str] = {"measured": references.load_references()["protocol"]}
    known = {**references.load_published()["sources"], **known}
    for key in keys:
        console.print(f"\n{key}: {escape(known[key])}", soft_wrap=True)
    if any("other_protocols" in task for task in tasks):
        console.print("\nscores of other versions or settings, never normalised with: see --json")
