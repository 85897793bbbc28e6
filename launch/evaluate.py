"""``gato evaluate``: a trained network in its simulators."""

from __future__ import annotations

import argparse

from rich.console import Console

from gato.evaluation.evaluate import evaluate
from gato.launch.journal import cores
from gato.launch.scores import score_table


def run(arguments: argparse.Namespace) -> None:
    """Plays, writes ``RUN/evaluation`` and prints the scores."""
    summary = evaluate(
        arguments.run, arguments.tasks, arguments.episodes, seed=arguments.seed, processes=cores(), progress=True
    )
    Console(highlight=False).print(score_table(summary))
