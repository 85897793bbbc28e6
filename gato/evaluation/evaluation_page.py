"""The page of one evaluation: self-contained, with the scores, what failed, a film of every task, and captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gato.data_pipelines.atomic_file import replace_file
from gato.evaluation.page import header, page
from gato.evaluation.report_captions import METRICS, caption_metric, captions_section
from gato.evaluation.report_charts import number
from gato.evaluation.report_scores import (
    domains_section,
    failures_section,
    figure,
    films_section,
    how_section,
    scores_section,
)

FILE = "report.html"


def write_evaluation_page(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Writes ``<folder>/report.html`` of a summary, with the films and captions there, and returns its path."""
    path = folder / FILE
    replace_file(path, render(folder, summary))
    return path


def render(folder: Path, summary: Mapping[str, Any]) -> str:
    """The page as a string."""
    every, protocol = summary["all"], summary["protocol"]
    captions: Mapping[str, Any] = summary.get("captions") or {}
    samples: list[dict[str, str]] = []
    if captions:
        samples = json.loads((folder / "captions.json").read_text(encoding="utf-8"))["samples"]
    tiles = [
        (number(figure(every["mean"])), "mean normalised score (0 random, 100 expert)"),
        (number(figure(every["iqm"])), "interquartile mean"),
        (f"{every['above_half']} of {every['tasks']}", "tasks above half of the expert"),
        (f"{sum(entry['episodes'] for entry in summary['tasks'].values()):,}", "episodes"),
    ]
    how = _deployment(protocol)
    if not summary["tasks"]:
        metrics = {source: caption_metric(score) for source, score in captions.items()}
        tiles = [(number(captions[source][m]), f"{source}: {METRICS[m]}") for source, m in metrics.items()]
        how = "texts about pictures"
    if summary["lost"]:
        tiles.append((f"{summary['lost']}", "episodes lost to failing environments"))
    lead = f"Checkpoint {summary['checkpoint_step']:,}, {how}, seed {summary['seed']}."
    sections = [
        header("Evaluation", lead, tiles),
        domains_section(summary),
        scores_section(summary) if summary["tasks"] else "",
        films_section(folder / "gifs", summary),
        captions_section(folder, summary, samples),
        failures_section(summary),
        how_section(summary) if summary["tasks"] else "",
    ]
    return page("Evaluation", sections)


def _deployment(protocol: Mapping[str, Any]) -> str:
    """What the agent was shown and, where that was not as usual, what it remembered with and how it drew."""
    if protocol["prompt"] == "none":
        shown = "without a prompt"
    elif protocol["prompt_tokens"] is None:
        shown = f"shown the {protocol['prompt']} of a demonstration"
    else:
        shown = f"shown {protocol['prompt_tokens']:,} tokens of the {protocol['prompt']} of a demonstration"
    memory = {"window": "", "sliding": ", sliding window", "memory": ", Transformer-XL memory"}
    names = ("temperature", "top_k", "top_p")
    drawn = [f", {name.replace('_', '-')} {protocol[name]:g}" for name in names if protocol.get(name) is not None]
    return shown + memory[protocol["memory"]] + "".join(drawn)
