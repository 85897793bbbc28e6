"""The scores of an evaluation as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from gato.evaluation.report_charts import number

PIPED_WIDTH = 120  # of a line where no terminal says how wide it is


def print_scores(summary: Mapping[str, Any]) -> None:
    """Prints the table of `score_table`."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    console.print(score_table(summary))


def score_table(summary: Mapping[str, Any]) -> Table:
    """What ``evaluation/summary.json`` holds, one row a task; an undefined score is a dash."""
    table = Table("task", "score %", "agent", "interval", "random", "specialist", "expert", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"

    for name, entry in summary["tasks"].items():
        interval = f"{_show(entry['low'])} … {_show(entry['high'])}"
        cells = (_show(entry.get(key)) for key in ("random", "specialist", "expert"))
        table.add_row(name, f"[bold]{_show(entry['normalised'])}[/]", _show(entry["score"]), interval, *cells)
        for control, score in (entry.get("controls") or {}).items():
            table.add_row(f"[dim]  {control}[/]", "", f"[dim]{_show(score)}[/]")
    for suite, mean in (summary.get("suites") or {}).items():
        table.add_row(f"[dim]mean of {suite}[/]", f"[dim]{_show(mean)}[/]")
    every = summary.get("all") or {}
    table.add_row("[bold]mean[/]", f"[bold]{_show(summary.get('overall'))}[/]", "", _interval(every, "mean"))
    if every.get("tasks"):
        table.add_row("[dim]interquartile mean[/]", f"[dim]{_show(every['iqm'])}[/]", "", _interval(every, "iqm"))
        table.add_row("[dim]above half of the expert[/]", f"[dim]{every['above_half']} of {every['tasks']}[/]")
    failures = ", ".join(f"{count} {kind}" for kind, count in (summary.get("failures") or {}).items())
    if failures or summary.get("lost"):
        table.add_row(f"[bold]environments failed: {failures or 'none'}; episodes lost: {summary['lost']}[/]")
    for name, scores in (summary.get("captions") or {}).items():
        metric = "object_f1" if "object_f1" in scores else "accuracy"
        interval = f"{_show(scores.get('low'))} … {_show(scores.get('high'))}"
        row = f"{name} ({metric.replace('_', ' ')})"
        table.add_row(row, "", _show(scores[metric]), interval, _show(scores.get(f"shuffled_{metric}")))
    if summary.get("captions"):
        table.caption = "random, for captions and questions: the same with shuffled images"
    return table


def _show(value: float | None) -> str:
    return "–" if value is None else number(value)


def _interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return "" if low is None else f"{_show(low)} … {_show(high)} %"
