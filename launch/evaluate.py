"""``gato evaluate``: a trained network in its simulators."""

from __future__ import annotations

import argparse

from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.evaluate import evaluate, results_folder
from gato.evaluation.evaluation_page import FILE
from gato.evaluation.jobs import Protocol
from gato.launch.scores import print_scores


def run(arguments: argparse.Namespace) -> None:
    """Plays, writes ``RUN/evaluation`` or ``--out``, and prints the scores and where their page lies."""
    given = [path for path in (arguments.run, arguments.checkpoint) if path is not None]
    if len(given) != 1:
        raise EvaluationError("name one run or checkpoint: gato evaluate RUN, or gato evaluate --checkpoint=RUN")
    summary = evaluate(
        given[0],
        arguments.tasks,
        Protocol(
            episodes=arguments.episodes,
            prompt=arguments.prompt,
            prompt_tokens=arguments.prompt_tokens,
            memory=arguments.memory,
            environments=arguments.environments,
            seed=arguments.seed,
        ),
        suites=[suite for word in arguments.suites for suite in word.split(",")] if arguments.suites else None,
        prompts=arguments.prompts,
        specialists=arguments.specialists,
        out=arguments.out,
        executor=arguments.executor,
        processes=arguments.processes,
        simulators=arguments.simulators,
        step_seconds=arguments.step_timeout,
    )
    print_scores(summary)
    print(f"\n{results_folder(given[0], arguments.out) / FILE}")
