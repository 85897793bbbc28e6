"""``gato evaluate``: a trained network in its simulators."""

from __future__ import annotations

import argparse

from gato.evaluation.evaluate import evaluate
from gato.launch.scores import print_scores


def run(arguments: argparse.Namespace) -> None:
    """Plays, writes ``RUN/evaluation`` or ``--out`` and prints the scores."""
    summary = evaluate(
        arguments.run,
        arguments.tasks,
        arguments.episodes,
        seed=arguments.seed,
        out=arguments.out,
        processes=arguments.processes,
    )
    print_scores(summary)
