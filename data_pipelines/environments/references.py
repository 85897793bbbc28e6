"""Random and expert scores that we measured with the environments of this package (see `measure_references`)."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

PATH = pathlib.Path(__file__).with_name("reference_scores.json")


@functools.cache
def load_references() -> dict[str, Any]:
    """The whole file: how it was made, and a record for each task."""
    return json.loads(PATH.read_text())


def reference_scores(task: str) -> tuple[float, float]:
    """(random, expert) score of the task; NaN where it was not measured."""
    record = load_references()["tasks"].get(task, {})
    return record.get("random", float("nan")), record.get("expert", float("nan"))
