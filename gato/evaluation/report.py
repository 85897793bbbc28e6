"""The report of a run: one self-contained HTML page, no script, no external resource, light and dark.

It reads what the stages left in the run directory; a section whose files are missing is left out:

    config.json               the configuration (any nested JSON object)
    metrics.jsonl             one JSON object a line: step, loss, loss/<kind>, loss/source/<name>, validation/...
    timings.json              {"stages": {name: seconds}, "machine": {...}}
    evaluation/summary.json   scores, see `gato.evaluation.scores`
    evaluation/gifs/*.gif     films of the agent, named <suite>__<task>.gif
    evaluation/captions.json  {"samples": [{"image": PNG path or data URI, "question", "expected", "answer"}], ...}
    evaluation/tokens.json    [sequence as `report_pictures.describe_tokens` gives it]
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.durations import duration
from gato.evaluation.page import header, page, section
from gato.evaluation.report_captions import captions_section
from gato.evaluation.report_charts import line_chart, number, stage_bar
from gato.evaluation.report_pictures import token_card
from gato.evaluation.report_scores import domains_section, films_section, scores_section
from gato.tokenizers.errors import GatoError
from gato.tokenizers.layout import KINDS
from gato.training.metrics import FILE as METRICS
from gato.training.metrics import read_metrics

FILE = "report.html"


class ReportError(GatoError):
    """A run directory that holds nothing to report, or a file in it that cannot be read."""


def write_report(run: Path) -> Path:
    """Writes ``<run>/report.html`` and returns its path. Raises ReportError if `run` holds no run."""
    if not (run / "config.json").is_file() and not (run / "evaluation" / "summary.json").is_file():
        raise ReportError(f"{run}: no run here (neither config.json nor evaluation/summary.json); name a run directory")
    path = run / FILE
    replace_file(path, render(run))
    return path


def render(run: Path) -> str:
    """The page as a string."""
    config: Mapping[str, Any] = _json(run / "config.json", {})
    summary: Mapping[str, Any] = _json(run / "evaluation" / "summary.json", {"tasks": {}})
    timings: Mapping[str, Any] = _json(run / "timings.json", {})
    metrics = read_metrics(run / METRICS)
    samples = _json(run / "evaluation" / "captions.json", {}).get("samples", [])
    sections = [
        _header(run, config, summary, metrics, timings),
        scores_section(summary),
        domains_section(summary),
        films_section(run / "evaluation" / "gifs", summary),
        captions_section(run / "evaluation", summary, samples),
        _curves(metrics),
        _tokens(_json(run / "evaluation" / "tokens.json", [])),
        _timings(timings, metrics),
        _configuration(config),
    ]
    return page(f"Gato: {run.resolve().name}", sections)


def _header(
    run: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    timings: Mapping[str, Any],
) -> str:
    tiles: list[tuple[str, str]] = []
    if summary.get("overall") is not None:
        tiles.append((number(summary["overall"]), "mean normalised score (0 random, 100 expert)"))
    if summary["tasks"]:
        every = summary["all"]
        tiles.append((f"{every['above_half']} of {every['tasks']}", "tasks above half of the expert"))
    if metrics:
        tiles.append((f"{metrics[-1]['step']:,}", "training steps"))
        if "batch_size" in config and "length" in config:
            tokens = metrics[-1]["step"] * config["batch_size"] * config["length"]
            tiles.append((f"{tokens / 1e6:,.1f} M", "tokens in the rows trained on"))
    if timings.get("stages"):
        tiles.append((duration(sum(timings["stages"].values())), "collected, trained and evaluated"))
    return header(
        run.resolve().name,
        "One network, trained on text, images and control episodes as one kind of token sequence, then prompted with a "
        "demonstration and left to act.",
        tiles,
    )


def _curves(metrics: list[dict[str, Any]]) -> str:
    def lines(prefix: str, names: Iterable[str]) -> dict[str, list[tuple[float, float]]]:
        found = {n: [(m["step"], m[prefix + n]) for m in metrics if m.get(prefix + n) is not None] for n in names}
        return {name: points for name, points in found.items() if points}

    keys = sorted({key for line in metrics for key in line})
    sources = [key.removeprefix("loss/source/") for key in keys if key.startswith("loss/source/")]
    suites: dict[str, list[str]] = {}
    for source in sources:
        suites.setdefault(source.partition("/")[0], []).append(source)
    charts = [line_chart("loss by kind of token", lines("loss/", KINDS), lines("validation/", KINDS))]
    # A suite with many tasks is one chart; the suites with a single source share one.
    single = [names[0] for names in suites.values() if len(names) == 1]
    for suite, names in suites.items():
        if len(names) > 1:
            short = {name: name.partition("/")[2] for name in names}
            found = {short[name]: points for name, points in lines("loss/source/", names).items()}
            held = {short[name]: points for name, points in lines("validation/source/", names).items()}
            charts.append(line_chart(suite, found, held))
    if single:
        charts.append(line_chart("other sources", lines("loss/source/", single), lines("validation/source/", single)))
    cards = "".join(f'<div class="card">{chart}</div>' for chart in charts if chart)
    if not cards:
        return ""
    return section(
        "Learning curves",
        "Cross-entropy in nats a token, on the tokens that carry loss. Dashed: episodes held out from training.",
        f'<div class="pair">{cards}</div>',
    )


def _tokens(described: list[dict[str, Any]]) -> str:
    if not described:
        return ""
    return section(
        "What the network reads",
        "The beginning of one sequence of each kind of source. Numbers are bins or values, words are pieces of text; "
        "every token is read, the filled ones are also learned.",
        token_card(described),
    )


def _timings(timings: Mapping[str, Any], metrics: list[dict[str, Any]]) -> str:
    stages = timings.get("stages") or {}
    if not stages:
        return ""
    rows = "".join(f'<tr><td>{html.escape(k)}</td><td class="n">{duration(v)}</td></tr>' for k, v in stages.items())
    rates = [line["tokens_per_second"] for line in metrics if line.get("tokens_per_second")]
    if rates:
        rates.sort()
        rows += f'<tr><td>training tokens a second, median</td><td class="n">{rates[len(rates) // 2]:,.0f}</td></tr>'
    for key, value in (timings.get("machine") or {}).items():
        rows += f'<tr><td>{html.escape(key)}</td><td class="n">{html.escape(str(value))}</td></tr>'
    table = f"<table>{rows}</table>"
    return section(
        "Time", "Wall-clock time of each stage on this machine.", f'<div class="card">{stage_bar(stages)}{table}</div>'
    )


def _configuration(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    rows = "".join(
        f'<tr><td class="c">{html.escape(key)}</td><td class="c">{html.escape(str(value))}</td></tr>'
        for key, value in _flat(config)
    )
    return section(
        "Configuration",
        "What this run was started with; the same configuration and seed give the same rows in the same order.",
        f"<details><summary>all settings</summary><table>{rows}</table></details>",
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(
            f"{path}: not valid JSON ({error}); remove it and run the stage that writes it again"
        ) from error
