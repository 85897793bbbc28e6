"""Writes what every task of our suites looks like, as its simulator says it, into ``environments/catalogue.json``.

    python -m gato.data_pipelines.write_catalogue [SUITE ...]

Without names: all our suites, for which all their packages must be installed. The suites that are not named stay.
"""

from __future__ import annotations

import argparse
import json

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.environments.catalogue import PATH, describe, load_catalogue
from gato.data_pipelines.environments.registry import get_suite, get_task, our_suites
from gato.tokenizers.errors import run_program


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="(default: all of ours)")
    for name in parser.parse_args(arguments).suites or our_suites():
        described = {task: describe(get_task(task)) for task in sorted(get_suite(name).task_names())}
        print(f"{name}: {len(described)} tasks", flush=True)
        _write({**load_catalogue(), name: described})
        load_catalogue.cache_clear()


def _write(catalogue: dict[str, dict[str, dict]]) -> None:
    """One line a task, so that a difference can be read."""
    suites = []
    for name, tasks in sorted(catalogue.items()):
        lines = [f"  {json.dumps(task)}: {json.dumps(about)}" for task, about in tasks.items()]
        suites.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    replace_file(PATH, "{\n" + ",\n".join(suites) + "\n}\n")


if __name__ == "__main__":
    run_program(main)
