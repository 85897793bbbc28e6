"""Tasks by name. Suites are entry points of the group ``gato.suites``; ours stand in pyproject.toml like anybody's::

    [project.entry-points."gato.suites"]
    my-robots = "my_package.suite:SUITE"      # a `Suite`

and ``get_task("my-robots/stack-cups")`` finds it. docs/suites.md has a complete example.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
from importlib import metadata

from gato.data_pipelines.environments import catalogue
from gato.data_pipelines.environments.base import DocumentSource, MissingSuiteError, SuiteError, Task, UnknownTaskError
from gato.data_pipelines.environments.references import reference_scores
from gato.data_pipelines.environments.suite import Suite
from gato.tokenizers.errors import GatoError, suggest

ENTRY_POINTS = "gato.suites"
# Suites that only this process knows: name -> "module:attribute" as in an entry point. Programs and tests add to it.
SUITES: dict[str, str] = {}
_OURS = "gato.data_pipelines.environments."

# Name -> module in `sources`, its function ``(count, seed) -> episodes``, its spec.
DOCUMENTS = {
    "captions/rooms": ("captions", "caption_episodes", "CAPTION_SPEC"),
    "questions/rooms": ("captions", "question_episodes", "QUESTION_SPEC"),
    "text/stdlib": ("stdlib_text", "episodes", "SPEC"),
}


def get_task(name: str) -> Task:
    """The task called "suite/task", with the scores of `references` where its suite gives none.

    Raises:
      UnknownTaskError: no such suite or task; the message suggests the nearest names.
      MissingSuiteError: the suite's package is not installed.
      SuiteError: the suite itself is broken.
    """
    prefix = name.partition("/")[0]
    offered = _offered()
    if prefix not in offered:
        raise UnknownTaskError(f"unknown suite {prefix!r} in task {name!r}; {suggest(name, list_tasks(), offered)}")
    suite = _load(prefix, offered[prefix])
    missing = suite.missing()
    if missing:
        raise MissingSuiteError(
            f"suite {prefix!r} needs {', '.join(missing)}, which is not installed; {suite.way_out()}"
        )
    names = suite.task_names()
    if name not in names:
        raise UnknownTaskError(f"unknown task {name!r}; {suggest(name, names)}")
    task = suite.make_task(name)
    random, expert = reference_scores(name)
    return dataclasses.replace(
        task,
        random_score=random if math.isnan(task.random_score) else task.random_score,
        expert_score=expert if math.isnan(task.expert_score) else task.expert_score,
    )


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
    """Names of all tasks whose simulators are installed, sorted. A broken suite has none."""
    names: set[str] = set()
    for name, point in _offered().items():
        try:
            suite = _load(name, point)
            if not suite.missing():
                names.update(_tasks(suite))
        except (SuiteError, MissingSuiteError):
            continue
    return sorted(names)


def suite_tasks(name: str) -> list[str]:
    """The suite's tasks, sorted; ours come from the catalogue: no simulator is loaded, nor has to be there."""
    return _tasks(get_suite(name))


def suite_names() -> list[str]:
    """All suites that are offered, installed or not, sorted. Raises `SuiteError` where our own are not among them."""
    return sorted(_offered())


def our_suites() -> list[str]:
    """Those of this package, sorted."""
    return [name for name, point in sorted(_offered().items()) if point.value.startswith(_OURS)]


def get_suite(name: str) -> Suite:
    """The suite of this name.

    Raises:
      UnknownTaskError: nobody offers it.
      SuiteError: it cannot be loaded, or is no `Suite` of this name; the message says whose it is.
    """
    offered = _offered()
    if name not in offered:
        raise UnknownTaskError(f"unknown suite {name!r}; {suggest(name, offered)}")
    return _load(name, offered[name])


def versions(task: str) -> dict[str, str]:
    """Package -> version, of the simulators that decide what happens in a task."""
    suite = task.partition("/")[0]
    point = _offered()[suite]
    own = [] if point.dist is None or point.value.startswith(_OURS) else [point.dist.name]
    found = {}
    for package in (*own, *_load(suite, point).packages):
        with contextlib.suppress(metadata.PackageNotFoundError):  # its distribution has another name
            found[package] = metadata.version(package)
    return found


def _offered() -> dict[str, metadata.EntryPoint]:
    """Suite -> entry point. Nobody replaces ours, and of two others the first on the path counts."""
    others: dict[str, metadata.EntryPoint] = {}
    ours: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        (ours if point.value.startswith(_OURS) else others).setdefault(point.name, point)
    if not ours:
        raise SuiteError(
            "the installed gato-jax names no suites, so it is older than this code; in the checkout: "
            "pip install --constraint constraints.txt --editable ."
        )
    local = {name: metadata.EntryPoint(name, value, ENTRY_POINTS) for name, value in SUITES.items()}
    return {**others, **local, **ours}


def _load(name: str, point: metadata.EntryPoint) -> Suite:
    where = f"suite {name!r} ({point.value}{f' of {point.dist.name}' if point.dist else ''})"
    try:
        suite = point.load()
    except Exception as error:  # a stranger's module may fail in any way, and must not take the others along
        raise SuiteError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(suite, Suite):
        if not (hasattr(suite, "task_names") and hasattr(suite, "make_task")):
            raise SuiteError(f"{where} is no Suite but a {type(suite).__name__}, without task_names and make_task")
        return Suite(name, "", suite.task_names, suite.make_task)  # a module with the two functions is enough
    if suite.name != name:
        raise SuiteError(f"{where} calls itself {suite.name!r}: entry point and Suite.name must agree")
    return suite


def _tasks(suite: Suite) -> list[str]:
    known = catalogue.task_names(suite.name)
    if known:
        return sorted(known)
    try:
        return sorted(suite.task_names())
    except GatoError:
        raise
    except Exception as error:  # as above
        raise SuiteError(f"suite {suite.name!r} cannot name its tasks: {type(error).__name__}: {error}") from error
