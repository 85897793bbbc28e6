"""``gato train``: the experiment of a config file."""

from __future__ import annotations

import argparse

from gato.launch.config import load_config, train_config


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with, the run in ``--out``; returns 130 or 143 if a signal stopped it, all being saved."""
    config = load_config(arguments.config, arguments.overrides)
    from gato.training.peers import Peers  # after the configuration's mistakes, which need no JAX
    from gato.training.processes import start_processes

    start_processes(arguments.coordinator, arguments.processes, arguments.process_id)
    with Peers() as peers:  # a text tokenizer, say, may be missing on one machine only
        from gato.training.trainer import train

        return train(train_config(config), arguments.out, arguments.profile_steps, peers).exit_code
