"""Metrics: a flat dictionary of numbers, written by process 0 to `metrics.jsonl`, TensorBoard and elsewhere."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from gato.data_pipelines.atomic_file import replace_file
from gato.tokenizers.layout import KINDS
from gato.training.config import TrainConfig
from gato.training.event_file import EventFile
from gato.training.loss import LossSums

FILE = "metrics.jsonl"


def loss_metrics(sums: LossSums, sources: Sequence[str], prefix: str = "loss") -> dict[str, float]:
    """Host loss sums -> ``{"loss": .., "loss/action": .., "loss/source/<name>": ..}``; only what had a target."""
    metrics = {prefix: float(sums.loss) / float(sums.weight) if sums.weight > 0 else 0.0}
    for name, loss, weight in zip(KINDS, sums.kind_loss, sums.kind_weight, strict=True):
        if weight > 0:
            metrics[f"{prefix}/{name}"] = float(loss) / float(weight)
    for name, loss, weight in zip(sources, sums.source_loss, sums.source_weight, strict=True):
        if weight > 0:
            metrics[f"{prefix}/source/{name}"] = float(loss) / float(weight)
    return metrics


def add_sums(first: LossSums | None, second: LossSums) -> LossSums:
    """Elementwise sum of two host loss sums, in float64."""
    second = jax.tree.map(lambda value: np.asarray(value, np.float64), second)
    return second if first is None else jax.tree.map(np.add, first, second)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All lines of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    lines = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines


class Writer(Protocol):
    """Where metrics go."""

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """The metrics after `step`; None: not known here."""

    def close(self) -> None:
        """Everything is written when it returns."""


def open_writers(run_dir: Path, config: TrainConfig, resume_step: int) -> list[Writer]:
    """Everything that a run's metrics go to; none on processes other than 0."""
    if jax.process_index():
        return []
    writers: list[Writer] = [MetricsWriter(run_dir, resume_step)]
    if config.wandb:
        from gato.training.wandb_writer import WandbWriter  # an extra

        writers.append(WandbWriter(run_dir, config, resume_step))
    return writers


class MetricsWriter:
    """Appends to `metrics.jsonl` and the TensorBoard events of a run directory.

    A run that resumes at step k drops the lines after k that the interrupted run wrote past its last checkpoint, so
    every step stands there once. Raises OSError where the disk refuses one of the two.
    """

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        path = run_dir / FILE
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
        replace_file(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._events = EventFile(run_dir / "tensorboard", resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One line; values that are not finite are written as null (JSON has no NaN)."""
        line = {name: value if value is None or math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        self._events.write(step, {name: value for name, value in line.items() if value is not None})

    def close(self) -> None:
        with contextlib.closing(self._events):
            self._file.close()
