"""The command line: ``gato {quickstart,suites,collect,data,plan,train,evaluate,generate,serve,report}``.

Exit status: 0 on success; 2 on a mistake of the user, with one line on stderr (``GATO_DEBUG=1`` shows the traceback);
130 after Ctrl-C and 143 after SIGTERM, with a line where the same command would go on from there; 75 where the same
command may well succeed the next time: a run of several processes lost one of them (`gato.training.peers`), a file
server did not answer. Anything else is a bug of ours, keeps its traceback and ends with 1.

Each command's module is imported when it runs, so that ``gato --help`` does not wait for JAX.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gato.data_pipelines.worker_process import cores
from gato.launch import argument_types as types
from gato.launch.arguments import Commands, UsageError, add_command
from gato.launch.arguments_agent import add_agent_commands, name_run
from gato.launch.arguments_data import add_data_command
from gato.launch.arguments_train import add_plan_command, add_train_command
from gato.launch.huge_pages import use_huge_pages
from gato.tokenizers.errors import GatoError, Terminated, printed, status_of, suggest

SUCCESS, INTERRUPTED = 0, 130
# Commands that keep what they have finished when they are interrupted.
_GO_ON = ("quickstart", "collect", "data import", "train", "evaluate")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        choice = re.search(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            argument, given, known = choice[1], choice[2], [name.strip("' ") for name in choice[3].split(",")]
            what = f"{argument} {given!r} is not possible" if argument.startswith("-") else f"no command {given!r}"
            message = f"{what}; {suggest(given, known)}"
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options and examples."""
    parser = _Parser(
        prog="gato",
        description="Generalist agents in JAX: demonstrations -> tokens -> one network -> prompted agent.",
        epilog="examples:\n  gato quickstart\n  gato train --config=gato_79m:data --out runs/79m\n  gato train --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_quickstart(commands)
    _add_suites(commands)
    _add_collect(commands)
    add_data_command(commands)
    add_plan_command(commands)
    add_train_command(commands)
    add_agent_commands(commands)
    _add_report(commands)
    return parser


def _add_quickstart(commands: Commands) -> None:
    quickstart = add_command(
        commands,
        "quickstart",
        "the whole way, small: collect, train, evaluate, report; run again to go on after an interruption",
        "  gato quickstart\n  gato quickstart --budget=2h --out runs/2h\n  gato quickstart --seed 1 --out runs/seed1",
    )
    quickstart.add_argument(
        "--budget", type=types.seconds, default="19m", metavar="TIME", help="in all: 19m (default), 2h, 900s"
    )
    quickstart.add_argument(
        "--seed", type=types.collection_seed, default=0, help="of data, parameters and evaluation (default 0)"
    )
    quickstart.add_argument(
        "--out", type=Path, default=Path("runs/quickstart"), metavar="RUN", help="the run directory"
    )


def _add_suites(commands: Commands) -> None:
    suites = add_command(
        commands,
        "suites",
        "list the suites of tasks, what is installed, and how to install the rest; or the tasks of one",
        "  gato suites\n  gato suites dm_control\n  gato suites ale --json",
    )
    suites.add_argument("suite", nargs="?", metavar="SUITE", help="list its tasks: leaves, metric, limit, scores")
    suites.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_collect(commands: Commands) -> None:
    collect = add_command(
        commands,
        "collect",
        "run the experts and write their demonstrations, one store a task; finished stores are kept",
        "  gato collect --out data\n  gato collect metaworld/reach-v3 babyai/OpenDoor --episodes 50 --out data",
    )
    collect.add_argument("tasks", nargs="*", metavar="TASK", help="suite/task; none: the starter mixture")
    collect.add_argument("--episodes", type=types.positive, default=100, metavar="N", help="of each TASK (default 100)")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the stores go")
    collect.add_argument("--seed", type=types.collection_seed, default=0, help="(default 0)")
    collect.add_argument("--processes", type=types.positive, default=cores(), metavar="N", help="(default: the cores)")


def _add_report(commands: Commands) -> None:
    report = add_command(
        commands,
        "report",
        "write RUN/report.html from what the run left in its directory",
        "  gato report runs/quickstart",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="run directory")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``--config.a.b=v`` are gathered in `overrides` (of train and plan only). Raises UsageError."""
    overrides = [word.removeprefix("--config.") for word in argv if word.startswith("--config.")]
    parser = build_parser()
    arguments, rest = parser.parse_known_args([word for word in argv if not word.startswith("--config.")])
    if hasattr(arguments, "checkpoint"):
        rest = name_run(arguments, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if overrides and arguments.command not in ("train", "plan"):
        raise UsageError(f"--config.{overrides[0]}: only gato train and gato plan take overrides")
    arguments.overrides = overrides
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if argv is None:  # as a program
        use_huge_pages()
    before, command = signal.signal(signal.SIGTERM, _terminate), ""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        command = f"{arguments.command} {getattr(arguments, 'action', '')}".strip()
        status = importlib.import_module(f"gato.launch.{arguments.command}").run(arguments)
        return SUCCESS if status is None else status
    except KeyboardInterrupt as interruption:
        print(f"interrupted{'; run the same command again to go on' if command in _GO_ON else ''}", file=sys.stderr)
        return interruption.status if isinstance(interruption, Terminated) else INTERRUPTED
    except (GatoError, OSError) as error:
        status = status_of(error)
        if status is None or os.environ.get("GATO_DEBUG") == "1":
            raise
        print(f"gato: {printed(error)}", file=sys.stderr)
        return status
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
