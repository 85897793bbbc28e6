"""``gato report``: the page of a run."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from gato.data_pipelines.errors import StoreError
from gato.evaluation.report import write_report
from gato.training.checkpoint import CheckpointError


def make_report(run: Path) -> Path:
    """Writes ``<run>/report.html``, with samples of the token sequences as long as the run's data are there."""
    if (run / "config.json").is_file():
        from gato.evaluation.token_samples import write_token_samples

        # Where the data have moved or nothing is trained yet, the page goes without, or with earlier samples.
        with contextlib.suppress(StoreError, CheckpointError):
            write_token_samples(run)
    return write_report(run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the report and prints its path."""
    print(make_report(arguments.run))
