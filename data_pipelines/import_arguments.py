"""What a user can say about an import on a command line: `gato data import`, and the same on Apache Beam."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gato.tokenizers.errors import counted

if TYPE_CHECKING:  # not when it runs: `gato --help` waits for nothing
    from gato.data_pipelines.import_source import Imported
    from gato.data_pipelines.readers.registry import SourceReference

SHOWN = 10  # skipped records that are printed; all are in the store


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source, the store to be, and what is said about them."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder or file; or FILE.py[:NAME] with a DatasetSpec, or its name"
    )
    parser.add_argument("dest", type=Path, metavar="DEST", help="the store to make")
    parser.add_argument("--path", default="", metavar="FOLDER", help="of the data, if SOURCE is a DatasetSpec")
    parser.add_argument(
        "--format", default="", help="rlds, rlu, minari, lerobot, arrays, text, ... (default: found out)"
    )
    parser.add_argument("--name", default="", help="of the source in mixtures (default: the data set's own)")
    parser.add_argument(
        "--values",
        type=_leaf_values,
        action="append",
        default=[],
        metavar="LEAF=N",
        help="integers 0..N-1, e.g. actions.action=18",
    )
    parser.add_argument(
        "--bad",
        choices=("fail", "skip"),
        default="fail",
        help="bad episodes, and files that cannot be opened: stop (default), or leave out",
    )


def reference_of(arguments: argparse.Namespace) -> SourceReference:
    """What the arguments of `add_import_arguments` say about the source."""
    from gato.data_pipelines.readers.registry import SourceReference

    return SourceReference(arguments.source, arguments.path, arguments.format, tuple(arguments.values), arguments.name)


def report_of(done: Imported) -> Iterator[str]:
    """The lines that tell what an import did."""
    what = "was imported before" if done.already_there else "imported"
    sizes = [counted(done.episodes, "episode"), counted(done.timesteps, "timestep")]
    if done.kind == "document":
        sizes = [counted(done.episodes, "document")]
    yield f"{done.store}: {what}: {', '.join(sizes)}"
    if done.empty:
        yield f"left out {counted(done.empty, 'empty document')}"
    if done.skipped:
        bad = f"{len(done.skipped):,} bad {'episode or file' if len(done.skipped) == 1 else 'episodes or files'}"
        yield f"skipped {bad} (all in {done.store}/skipped.jsonl):"
        yield from (f"  record {number}: {why}" for number, why in done.skipped[:SHOWN])


def _leaf_values(text: str) -> tuple[str, int]:
    leaf, _, count = text.rpartition("=")
    if not leaf or not count.isdigit() or int(count) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no LEAF=N, e.g. actions.action=18")
    return leaf, int(count)
