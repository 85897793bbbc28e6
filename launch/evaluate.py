"""``gato evaluate``: a trained network in its simulators."""

from __future__ import annotations

import argparse

from gato.evaluation.evaluate import evaluate, results_folder
from gato.evaluation.evaluation_page import FILE
from gato.evaluation.jobs import Protocol
from gato.launch.scores import print_scores


def run(arguments: argparse.Namespace) -> None:
    """Plays, writes ``RUN/evaluation`` or ``--out``, and prints the scores and where their page lies."""
    summary = evaluate(
        arguments.checkpoint,
        arguments.tasks,
        Protocol(
            episodes=arguments.episodes,
            prompt=arguments.prompt,
            prompt_tokens=arguments.prompt_tokens,
            memory=arguments.memory,
            environments=arguments.environments,
            seed=arguments.seed,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        ),
        suites=arguments.suites,
        prompts=arguments.prompts,
        specialists=arguments.specialists,
        out=arguments.out,
        executor=arguments.executor,
        processes=arguments.processes,
        simulators=arguments.simulators,
        step_seconds=arguments.step_timeout,
    )
    print_scores(summary)
    print(f"\n{results_folder(arguments.checkpoint, arguments.out) / FILE}")
