"""The command line in parts: what the parsers of all commands share."""

from __future__ import annotations

import argparse
from typing import Any

from gato.tokenizers.errors import GatoError

Commands = Any  # what `add_subparsers` returns, which argparse keeps to itself


class UsageError(GatoError):
    """The command line itself is wrong."""


def add_command(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A command's parser: its summary in the list of commands, and above its own help with the examples below."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
