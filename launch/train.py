"""``gato train``: the experiment of a config file."""

from __future__ import annotations

import argparse

from gato.launch.config import load_config, train_config


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with, the run in ``--out``; returns 130 or 143 if a signal stopped it, all being saved."""
    config = load_config(arguments.config, arguments.overrides)
    from gato.training.trainer import train  # after the configuration's mistakes, which need no JAX

    return train(train_config(config), arguments.out).exit_code
