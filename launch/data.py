"""``gato data``: import, check and look at data; train a text tokenizer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gato.data_pipelines.check import DISTINCT, LISTED, LeafReport, StoreReport, check_store
from gato.data_pipelines.import_arguments import reference_of, report_of
from gato.data_pipelines.import_source import import_source
from gato.launch.scores import PIPED_WIDTH
from gato.tokenizers.errors import GatoError, counted


def run(arguments: argparse.Namespace) -> int | None:
    """Does what ``arguments.action`` says."""
    actions = {"import": run_import, "check": run_check, "show": run_show, "train-tokenizer": run_train_tokenizer}
    return actions[arguments.action](arguments)


def run_import(arguments: argparse.Namespace) -> None:
    """Imports one source and says what came of it."""
    reference = reference_of(arguments)
    done = import_source(reference, arguments.dest, bad=arguments.bad, processes=arguments.processes)
    print(*report_of(done), sep="\n")


def run_check(arguments: argparse.Namespace) -> int:
    """Prints the statistics and what is wrong; status 1 if something is."""
    if arguments.json:
        _prepare(arguments.json)
    reports = [check_store(path, arguments.episodes) for path in arguments.stores]
    if arguments.json:
        arguments.json.write_text(json.dumps([report.to_json() for report in reports], indent=1) + "\n")
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    for report in reports:
        _print(report, console)
    return 1 if any(report.violated for report in reports) else 0


def run_show(arguments: argparse.Namespace) -> None:
    """Writes the page of some stores and prints its path."""
    from gato.evaluation.data_page import write_data_page

    _prepare(arguments.out)
    print(write_data_page(arguments.stores, arguments.out, arguments.length, arguments.text_model))


def run_train_tokenizer(arguments: argparse.Namespace) -> None:
    """Trains a SentencePiece model on texts and writes it."""
    from gato.data_pipelines.text_corpus import texts_of
    from gato.tokenizers.text import TextTokenizer, train

    _prepare(arguments.out)
    corpus = texts_of(arguments.texts, progress=True)

    def texts() -> Iterator[str]:
        yield from corpus
        # SentencePiece says nothing while it works.
        print(f"all texts are read; training {arguments.pieces:,} pieces", file=sys.stderr)

    model = train(texts(), arguments.pieces)
    arguments.out.write_bytes(model)
    tokenizer = TextTokenizer(model)
    print(f"{arguments.out}: {tokenizer.size:,} pieces, hash {tokenizer.hash}")


def _prepare(file: Path) -> None:
    """Before long work: finds out that the file cannot be written at its end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise GatoError(f"{file}: is a folder; name a file in it")


def _print(report: StoreReport, console: Console) -> None:
    size = f"{report.bytes / 1e6:,.1f} MB"
    read = "all" if report.checked == report.episodes else f"{report.checked:,} drawn at random"
    console.print(f"[bold]{escape(report.name)}[/]  {escape(str(report.path))}", soft_wrap=True)
    if report.kind == "document":
        console.print(f"  {counted(report.episodes, 'document')}, {size}; read: {read}")
    else:
        held = f"{counted(report.episodes, 'episode')}, {counted(report.timesteps, 'timestep')}"
        returns = f"; returns {_quantiles(report.returns)}" if any(report.returns) else ""
        console.print(f"  {held}, {size}; read: {read}")
        console.print(f"  lengths {_quantiles(report.lengths)}{returns} (0, 25, 50, 75, 100 %)")
    if "fps" in report.metadata:
        console.print(f"  {report.metadata['fps']} frames a second")
    columns = ("leaf", "kind", "shape", "range", "mean", "constant", "NaN", "outside", "saturated", "values")
    table = Table(*columns, box=None)
    for leaf in report.leaves:
        table.add_row(*map(escape, _cells(leaf)))
    console.print(table)
    if report.skipped:
        words = (
            f"{counted(report.skipped, 'record')} skipped by the import[/]: {escape(str(report.path))}/skipped.jsonl"
        )
        console.print(f"  [yellow]{words}", soft_wrap=True)
    for _, message in report.violations[:LISTED]:
        console.print(f"  [red]{escape(message)}[/]", soft_wrap=True)  # one line each, for grep
    if report.violated > LISTED:
        console.print(f"  [red]... and {report.violated - LISTED:,} more bad episodes: --json FILE lists all[/]")
    console.print("  [red]not fit for training[/]" if report.violated else "  [green]nothing is wrong[/]")


def _cells(leaf: LeafReport) -> tuple[str, ...]:
    spec = leaf.spec
    values = "" if leaf.distinct is None else f"{leaf.distinct:,}{' or more' if leaf.distinct == DISTINCT else ''}"
    return (
        leaf.name,
        spec.modality,
        "" if spec.modality == "text" else "x".join(map(str, spec.shape)) or "scalar",
        f"{leaf.low:.3g} … {leaf.high:.3g}{' characters' if spec.modality == 'text' else ''}",
        f"{leaf.mean:.3g}",
        f"{leaf.constant} of {leaf.dimensions}" if leaf.constant else "",
        f"{leaf.not_finite:.2%}" if leaf.not_finite else "",
        f"{leaf.outside:.2%}" if leaf.outside else "",
        f"{leaf.saturated:.2%}" if leaf.saturated else "",
        f"{values} of {spec.values:,}" if values and spec.values else values,
    )


def _quantiles(values: list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
