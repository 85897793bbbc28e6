"""Tasks by name: the built-in suites, and suites that other packages offer under the entry-point group ``gato.tasks``.

A user's package adds a suite without touching this project::

    [project.entry-points."gato.tasks"]
    my-robots = "my_package.suite"      # a module with task_names() and make_task(name), see `base`

and ``get_task("my-robots/stack-cups")`` finds it.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from gato.data_pipelines.environments.base import DocumentSource, MissingSuiteError, Task, UnknownTaskError
from gato.tokenizers.errors import suggest

ENTRY_POINTS = "gato.tasks"
_PACKAGE = "gato.data_pipelines.environments"
SUITES = {
    "atari": f"{_PACKAGE}.atari",
    "babyai": f"{_PACKAGE}.babyai",
    "babyai-raw": f"{_PACKAGE}.babyai",
    "dm_control": f"{_PACKAGE}.dm_control",
    "metaworld": f"{_PACKAGE}.metaworld",
    "metaworld-full": f"{_PACKAGE}.metaworld",
    "sokoban": f"{_PACKAGE}.sokoban",
}

# Name -> module in `sources`, its function ``(count, seed) -> episodes``, its spec.
DOCUMENTS = {
    "captions/rooms": ("captions", "caption_episodes", "CAPTION_SPEC"),
    "questions/rooms": ("captions", "question_episodes", "QUESTION_SPEC"),
    "text/stdlib": ("stdlib_text", "episodes", "SPEC"),
}


def get_task(name: str) -> Task:
    """The task called "suite/task".

    Raises:
      UnknownTaskError: no such suite or task; the message suggests the nearest names.
      MissingSuiteError: the suite's package is not installed.
    """
    suite = name.partition("/")[0]
    offered = _suites()
    if suite not in offered:
        raise UnknownTaskError(f"unknown suite {suite!r} in task {name!r}; {suggest(name, list_tasks(), offered)}")
    module = _load(offered[suite])
    names = module.task_names()
    if name not in names:
        own = [other for other in names if other.startswith(f"{suite}/")]
        raise UnknownTaskError(f"unknown task {name!r}; {suggest(name, own)}")
    return module.make_task(name)


def get_source(name: str) -> Task | DocumentSource:
    """What can be collected under this name: a task's demonstrations, or documents."""
    if name in DOCUMENTS:
        module, episodes, spec = DOCUMENTS[name]
        loaded = importlib.import_module(f"gato.data_pipelines.sources.{module}")
        return DocumentSource(name, getattr(loaded, spec), getattr(loaded, episodes))
    if name.partition("/")[0] in {document.partition("/")[0] for document in DOCUMENTS}:
        raise UnknownTaskError(f"unknown documents {name!r}; {suggest(name, DOCUMENTS)}")
    return get_task(name)


def list_tasks() -> list[str]:
    """Names of all tasks whose simulators are installed, sorted."""
    names: set[str] = set()
    for module in {id(suite): suite for suite in map(_load, _suites().values())}.values():
        try:
            names.update(module.task_names())
        except MissingSuiteError:
            continue
    return sorted(names)


def _suites() -> dict[str, Any]:
    """Suite -> module name or entry point. An entry point cannot replace a built-in suite."""
    offered: dict[str, Any] = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    return {**offered, **SUITES}


def _load(suite: Any) -> Any:
    return importlib.import_module(suite) if isinstance(suite, str) else suite.load()
