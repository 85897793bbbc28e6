"""Random and expert scores, by which an agent's score is normalised; each with where it comes from.

``reference_scores.json`` holds what we measured with the environments of this package (`measure_references`).
``published_scores.json`` holds what others published, or we found in other ways: ``scores`` of the same task, limit and
metric, which count where the first file has none, and ``other_protocols``, which are shown and never normalised with.
A score that neither holds is undefined.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

PATH = pathlib.Path(__file__).with_name("reference_scores.json")
PUBLISHED = pathlib.Path(__file__).with_name("published_scores.json")
AGENTS = ("random", "expert")
# The same simulations, shown in another way.
_SAME = {"babyai-raw": "babyai", "dm_control-pixels": "dm_control", "metaworld-full": "metaworld"}


@functools.cache
def load_references() -> dict[str, Any]:
    """Our own measurements: how they were made, and a record for each task."""
    return json.loads(PATH.read_text())


@functools.cache
def load_published() -> dict[str, Any]:
    """``sources`` (key -> where and how), ``scores`` (task -> agent -> score, source), ``other_protocols``."""
    return json.loads(PUBLISHED.read_text())


def reference_scores(task: str) -> tuple[float, float]:
    """(random, expert) score of the task; NaN where there is none."""
    random, expert = (_score(task, agent)[0] for agent in AGENTS)
    return random, expert


def reference_sources(task: str) -> dict[str, str]:
    """ "random" and "expert" -> "measured" or a key of the published ``sources``, as far as there are scores."""
    found = {agent: _score(task, agent)[1] for agent in AGENTS}
    return {agent: source for agent, source in found.items() if source}


def other_protocols(task: str) -> list[dict[str, Any]]:
    """Published scores of other versions or settings of the task: random, expert, human, source."""
    return load_published()["other_protocols"].get(_simulation(task), [])


def _score(task: str, agent: str) -> tuple[float, str]:
    """(score, source) of "random" or "expert"; (NaN, "") where there is none."""
    name = _simulation(task)
    record = load_references()["tasks"].get(name, {})
    if agent in record:
        return record[agent], "measured"
    published = load_published()["scores"].get(name, {}).get(agent, {})
    return published.get("score", float("nan")), published.get("source", "")


def _simulation(task: str) -> str:
    suite, _, short = task.partition("/")
    return f"{_SAME.get(suite, suite)}/{short}"
