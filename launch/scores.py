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

    def show(value: float | None) -> str:
        return "–" if value is None else number(value)

    for name, entry in summary["tasks"].items():
        interval = f"{show(entry['low'])} … {show(entry['high'])}"
        cells = (show(entry.get(key)) for key in ("random", "specialist", "expert"))
        table.add_row(name, f"[bold]{show(entry['normalised'])}[/]", show(entry["score"]), interval, *cells)
        for control, score in (entry.get("controls") or {}).items():
            table.add_row(f"[dim]  {control}[/]", "", f"[dim]{show(score)}[/]")
    for suite, mean in (summary.get("suites") or {}).items():
        table.add_row(f"[dim]mean of {suite}[/]", f"[dim]{show(mean)}[/]")
    table.add_row("[bold]mean[/]", f"[bold]{show(summary.get('overall'))}[/]")
    for name, scores in (summary.get("captions") or {}).items():
        metric = "object_f1" if "object_f1" in scores else "accuracy"
        interval = f"{show(scores.get('low'))} … {show(scores.get('high'))}"
        row = f"{name} ({metric.replace('_', ' ')})"
        table.add_row(row, "", show(scores[metric]), interval, show(scores.get(f"shuffled_{metric}")))
    if summary.get("captions"):
        table.caption = "random, for captions and questions: the same with shuffled images"
    return table
