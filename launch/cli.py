"""The command line: ``gato {quickstart,suites,collect,data,plan,train,evaluate,generate,serve,report}``.

Exit status: 0 on success; 2 on a mistake of the user, with one line on stderr (``GATO_DEBUG=1`` shows the traceback);
130 after Ctrl-C and 143 after SIGTERM, when the same command goes on where it stopped; 75 where a run of several
processes lost one of them (`gato.training.peers`). Anything else is a bug of ours and keeps its traceback.

Each command's module is imported when it runs, so that ``gato --help`` does not wait for JAX.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gato.data_pipelines.import_arguments import add_import_arguments
from gato.data_pipelines.worker_process import cores
from gato.launch.huge_pages import use_huge_pages
from gato.tokenizers.errors import GatoError, printed, suggest

SUCCESS, USER_MISTAKE, INTERRUPTED, TERMINATED = 0, 2, 130, 143
_MEMORY = ("window", "sliding", "memory")  # the modes of gato.inference.memory, which imports numpy
# What the machine refuses and the user can mend; other operating system errors are bugs.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file stands where a directory is wanted, or the other way round
)


class UsageError(GatoError):
    """The command line itself is wrong."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, so that what it holds open is closed."""


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
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    quickstart = command(
        "quickstart",
        "the whole way, small: collect, train, evaluate, report; run again to go on after an interruption",
        "  gato quickstart\n  gato quickstart --budget=2h --out runs/2h\n  gato quickstart --seed 1 --out runs/seed1",
    )
    quickstart.add_argument(
        "--budget", type=_seconds, default="19m", metavar="TIME", help="in all: 19m (default), 2h, 900s"
    )
    quickstart.add_argument("--seed", type=_natural, default=0, help="of data, parameters and evaluation (default 0)")
    quickstart.add_argument(
        "--out", type=Path, default=Path("runs/quickstart"), metavar="RUN", help="the run directory"
    )

    suites = command(
        "suites",
        "list the suites of tasks, what is installed, and how to install the rest; or the tasks of one",
        "  gato suites\n  gato suites dm_control\n  gato suites ale --json",
    )
    suites.add_argument("suite", nargs="?", metavar="SUITE", help="list its tasks: leaves, metric, limit, scores")
    suites.add_argument("--json", action="store_true", help="print JSON instead of a table")

    collect = command(
        "collect",
        "run the experts and write their demonstrations, one store a task; finished stores are kept",
        "  gato collect --out data\n  gato collect metaworld/reach-v3 babyai/OpenDoor --episodes 50 --out data",
    )
    collect.add_argument("tasks", nargs="*", metavar="TASK", help="suite/task; none: the starter mixture")
    collect.add_argument("--episodes", type=_positive, default=100, metavar="N", help="of each TASK (default 100)")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the stores go")
    collect.add_argument("--seed", type=_natural, default=0, help="(default 0)")
    collect.add_argument("--processes", type=_positive, default=cores(), metavar="N", help="(default: the cores)")

    _add_data(commands)

    plan = command(
        "plan",
        "compile the training step for accelerators that are not here: memory, collectives, estimated time",
        "  gato plan --config=gato_1_2b --topology=v5e:16x16 --mesh=32,8,1\n"
        "  gato plan --config=gato_79m --topology=v5e:4x4 --search --json plan.json\n"
        "  gato plan --config=gato_7b --topology=h200:8x8 --config.model.position=rope",
    )
    plan.add_argument("--config", required=True, metavar="FILE[:ARG]", help="as of gato train; its data are not read")
    plan.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="v5e:16x16, v4:8x8x4; GPUs: h200:8x8")
    plan.add_argument(
        "--mesh", type=_mesh, metavar="D,F,T", help="data, fsdp, tensor (default: the config's; search: all)"
    )
    plan.add_argument("--search", action="store_true", help="try meshes, remat, batch sizes; rank those that fit")
    plan.add_argument("--tried", type=_positive, default=6, metavar="N", help="plans that a search wants (default 6)")
    plan.add_argument("--targets", type=_share, metavar="SHARE", help="targets a token (default: the paper's mixture)")
    plan.add_argument("--patches", type=_share, metavar="SHARE", help="image patches a token (default: likewise)")
    plan.add_argument("--tokens", type=float, default=524e9, metavar="N", help="of the whole run (default 524e9)")
    plan.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    plan.add_argument("--config.KEY=VALUE", dest="_", action="store_true", help="change one value of the experiment")

    train = command(
        "train",
        "train the experiment of a config file; a run directory that holds its checkpoints is continued",
        "  gato train --config=gato_79m:data --out runs/79m\n"
        "  gato train --config=experiment.py --config.optimizer.learning_rate=3e-4 --out runs/a\n"
        "  gato train --config=gato_79m:data --out runs/79m --profile-steps=10:15\n"
        "  srun gato train --config=gato_79m:data --out runs/79m",
    )
    train.add_argument("--config", required=True, metavar="FILE[:ARG]", help="experiment file, or a shipped one's name")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run directory")
    train.add_argument("--config.KEY=VALUE", dest="_", action="store_true", help="change one value of the experiment")
    train.add_argument("--profile-steps", type=_steps, metavar="FIRST:LAST", help="trace these steps into RUN/profile")
    several = train.add_argument_group(
        "several processes", "found out under srun, mpirun and on TPU VMs; else all three:"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="machine of process 0, and a free port there")
    several.add_argument("--processes", type=_positive, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=_natural, metavar="I", help="which one this is, from 0")

    evaluate = command(
        "evaluate",
        "let the trained network act in the simulators of its tasks and score it; run again to go on",
        "  gato evaluate --checkpoint=runs/quickstart --suites metaworld babyai --out runs/quickstart/paper\n"
        "  gato evaluate runs/79m --tasks metaworld/reach-v3 --episodes 20 --out runs/79m/reach\n"
        "  RAY_ADDRESS=head:6379 gato evaluate runs/79m --executor=ray --processes 64",
    )
    evaluate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="run directory, or one checkpoint")
    evaluate.add_argument("--checkpoint", type=Path, metavar="RUN", help="the same, in other words")
    evaluate.add_argument("--suites", nargs="+", metavar="SUITE", help="its tasks of these; all, where it has none")
    evaluate.add_argument("--tasks", nargs="+", metavar="TASK", help="these (default: all that it was trained on)")
    evaluate.add_argument("--episodes", type=_positive, default=50, metavar="N", help="of each task (default 50)")
    evaluate.add_argument(
        "--prompt",
        choices=("beginning", "end", "none"),
        default="beginning",
        help="what is shown of a demonstration (default beginning, as in the paper)",
    )
    evaluate.add_argument(
        "--prompt-tokens", type=_positive, metavar="N", help="of it (default: as in training; the paper: 1024)"
    )
    evaluate.add_argument(
        "--memory", choices=_MEMORY, default="window", help="of a full row (default window; the paper: memory)"
    )
    evaluate.add_argument("--prompts", type=Path, metavar="DIR", help="stores DIR/suite/task of demonstrations to show")
    evaluate.add_argument("--specialists", action="store_true", help="train and play a small network a task beside it")
    evaluate.add_argument("--seed", type=_natural, default=0, help="of the evaluation's episodes (default 0)")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: RUN/evaluation)")
    evaluate.add_argument("--environments", type=_positive, default=40, metavar="N", help="in a batch (default 40)")
    evaluate.add_argument("--executor", choices=("local", "ray"), default="local", help="who plays (default local)")
    evaluate.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="that act (default: the cores; 1 with an accelerator; what Ray has)",
    )
    evaluate.add_argument(
        "--simulators",
        type=_natural,
        metavar="N",
        help="processes of environments for each that acts (default: what the cores allow); 0: in the same process",
    )
    evaluate.add_argument(
        "--step-timeout", type=_seconds, default="60s", metavar="TIME", help="of an environment's step (default 60s)"
    )

    generate = command(
        "generate",
        "complete a text, caption an image, answer a question about it, or chat; shown while it is written",
        '  gato generate --checkpoint=runs/mine "Once upon a time" --limit=200\n'
        "  gato generate --checkpoint=runs/quickstart --image=room.png\n"
        '  gato generate --checkpoint=runs/quickstart --image=room.png --question="how many balls?"\n'
        '  gato generate --checkpoint=runs/mine --chat "User talks with Gato, who knows much about birds."',
    )
    generate.add_argument(
        "--checkpoint", type=Path, required=True, metavar="RUN", help="run directory, or a checkpoint"
    )
    generate.add_argument(
        "prompt", nargs="?", default="", metavar="PROMPT", help="how the text begins; of a chat: who talks"
    )
    generate.add_argument("--image", type=Path, metavar="FILE", help="what the text is about")
    generate.add_argument("--question", metavar="TEXT", help="about the image")
    generate.add_argument("--chat", action="store_true", help="answer line by line, until Ctrl-D")
    generate.add_argument(
        "--source", metavar="NAME", help="the text is like this source's (default: the first that fits)"
    )
    generate.add_argument("--limit", type=_positive, default=64, metavar="N", help="most tokens (default 64)")
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be repeated")
    generate.add_argument("--temperature", type=_not_negative, metavar="T", help="0: greedy (default: the recipe's)")
    generate.add_argument("--top-k", type=_positive, metavar="K", help="draw from the K likeliest tokens only")
    generate.add_argument("--top-p", type=_share, metavar="P", help="draw from the likeliest that have P together")
    generate.add_argument("--seed", type=_natural, default=0, help="decides what is drawn (default 0)")

    serve = command(
        "serve",
        "serve a trained network to robots and simulators over websockets",
        "  gato serve --checkpoint=runs/quickstart\n"
        "  gato serve --checkpoint=runs/mine --warm metaworld/reach-v3 --sessions=64\n"
        "  gato serve --checkpoint=runs/mine --host=0.0.0.0 --token-file=token",
    )
    serve.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run directory, or a checkpoint")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    serve.add_argument("--port", type=_natural, default=8765, metavar="N", help="(default 8765; 0: any free one)")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="what clients must know (or: $GATO_TOKEN)")
    serve.add_argument("--sessions", type=_positive, default=16, metavar="N", help="most at a time (default 16)")
    serve.add_argument("--warm", nargs="+", default=[], metavar="SOURCE", help="compile for these before listening")
    serve.add_argument(
        "--idle", type=_seconds, default="10m", metavar="TIME", help="until a silent client goes (default 10m)"
    )
    serve.add_argument("--max-message", type=_positive, default=16, metavar="MIB", help="largest message (default 16)")
    serve.add_argument("--temperature", type=_not_negative, metavar="T", help="0: greedy (default: the recipe's)")
    serve.add_argument("--top-k", type=_positive, metavar="K", help="draw from the K likeliest tokens only")
    serve.add_argument("--top-p", type=_share, metavar="P", help="draw from the likeliest that have P together")
    serve.add_argument("--memory", choices=_MEMORY, default="window", help="of a full row (default: window)")
    serve.add_argument(
        "--prompt-tokens", type=_positive, metavar="N", help="of a demonstration (default: as in training)"
    )
    serve.add_argument("--seed", type=_natural, default=0, help="decides what is drawn (default 0)")

    report = command(
        "report",
        "write RUN/report.html from what the run left in its directory",
        "  gato report runs/quickstart",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="run directory")
    return parser


def _add_data(commands: Any) -> None:
    """``gato data`` and its actions."""
    data = commands.add_parser(
        "data", help="import, check and look at data; train a text tokenizer", formatter_class=_Formatter
    )
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=summary, description=summary, epilog=f"examples:\n{examples}", formatter_class=_Formatter
        )

    load = action(
        "import",
        "turn data of another format into a training store",
        "  gato data import ~/minari/D4RL/door/human-v2 data/door\n"
        "  gato data import episodes/ data/mine --values actions.action=6\n"
        "  gato data import my_robot.py:ROBOT data/robot --path /mnt/recordings --bad skip",
    )
    add_import_arguments(load)
    load.add_argument("--processes", type=_positive, default=cores(), metavar="N", help="(default: the cores)")

    check = action(
        "check",
        "statistics of every leaf, and what is wrong",
        "  gato data check data/door\n  gato data check data/* --episodes 500 --json check.json",
    )
    check.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    check.add_argument("--episodes", type=_positive, metavar="N", help="read so many of each, at random (default: all)")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")

    show = action(
        "show",
        "write a page: frames, actions, tokens with their loss, packed rows",
        "  gato data show data/door\n  gato data show data/* --out data.html --length 512",
    )
    show.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    show.add_argument("--out", type=Path, default=Path("data.html"), metavar="FILE", help="(default data.html)")
    show.add_argument("--length", type=_positive, default=1024, metavar="L", help="tokens in a row (default 1024)")
    show.add_argument("--text-model", type=Path, metavar="FILE", help="SentencePiece model (default: the shipped one)")

    text = action(
        "train-tokenizer",
        "train a SentencePiece model on texts",
        "  gato data train-tokenizer data/wiki notes/*.txt --out text.model --pieces 32000",
    )
    text.add_argument(
        "texts", nargs="+", type=Path, metavar="TEXT", help="stores with text, text files, JSONL, parquet"
    )
    text.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model")
    text.add_argument("--pieces", type=_positive, default=32_000, metavar="N", help="at least 1024 (default 32000)")


_Formatter = argparse.RawDescriptionHelpFormatter


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 20m, 2h or 900s")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def _steps(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no FIRST:LAST, e.g. 10:15")
    return int(match[1]), int(match[2])


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 0")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 1")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number >= 0")
    return number


def _mesh(text: str) -> tuple[int, int, int]:
    sizes = re.fullmatch(r"(-1|[1-9]\d*),(-1|[1-9]\d*),(-1|[1-9]\d*)", text)
    if not sizes:
        raise argparse.ArgumentTypeError(f"{text!r} is no mesh; write data,fsdp,tensor, e.g. 32,8,1 (-1: the rest)")
    return int(sizes[1]), int(sizes[2]), int(sizes[3])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return share


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``--config.a.b=v`` are gathered in `overrides` (of train and plan only). Raises UsageError."""
    overrides = [word.removeprefix("--config.") for word in argv if word.startswith("--config.")]
    arguments = build_parser().parse_args([word for word in argv if not word.startswith("--config.")])
    if overrides and arguments.command not in ("train", "plan"):
        raise UsageError(f"--config.{overrides[0]}: only gato train and gato plan take overrides")
    arguments.overrides = overrides
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if argv is None:  # as a program
        use_huge_pages()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        status = importlib.import_module(f"gato.launch.{arguments.command}").run(arguments)
        return SUCCESS if status is None else status
    except KeyboardInterrupt as interruption:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return TERMINATED if isinstance(interruption, _Terminated) else INTERRUPTED
    except (GatoError, OSError) as error:
        if os.environ.get("GATO_DEBUG") == "1":
            raise
        if isinstance(error, OSError) and error.errno not in _REFUSALS:
            raise
        print(f"gato: {printed(error)}", file=sys.stderr)
        return USER_MISTAKE
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
