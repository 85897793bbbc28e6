"""The arguments of the commands that act: ``gato evaluate``, ``generate`` and ``serve``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gato.launch import argument_types as types
from gato.launch.arguments import Commands, UsageError, add_command

_MEMORY = ("window", "sliding", "memory")  # the modes of gato.inference.memory, which imports numpy


def add_agent_commands(commands: Commands) -> None:
    """Adds the three."""
    _add_evaluate(commands)
    _add_generate(commands)
    _add_serve(commands)


def name_run(arguments: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Puts what RUN or --checkpoint named into ``arguments.checkpoint``; generate's PROMPT may stand behind RUN.

    Args:
      rest: words that the parser found no place for: those that stand behind an option.

    Returns:
      Those that are nobody's.
    """
    command, words, rest = arguments.command, [arguments.run] if arguments.run else [], list(rest)
    if command == "generate":
        words += [arguments.prompt] if arguments.prompt is not None else []
        while rest and not rest[0].startswith("-") and len(words) < 2:
            words.append(rest.pop(0))
        arguments.prompt = words.pop() if len(words) > (arguments.checkpoint is None) else ""
    words += [arguments.checkpoint] if arguments.checkpoint else []
    if len(words) != 1:
        raise UsageError(f"name one run or checkpoint: gato {command} RUN, or gato {command} --checkpoint=RUN")
    arguments.checkpoint = Path(words[0])
    return rest


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="run directory, or one checkpoint")
    parser.add_argument("--checkpoint", metavar="RUN", help="the same, in other words")


def _add_sampling(parser: argparse.ArgumentParser, seed: str = "decides what is drawn") -> None:
    parser.add_argument("--temperature", type=types.not_negative, metavar="T", help="0: greedy (default: the recipe's)")
    parser.add_argument("--top-k", type=types.positive, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument("--top-p", type=types.share, metavar="P", help="draw from the likeliest that have P together")
    parser.add_argument("--seed", type=types.natural, default=0, help=f"{seed} (default 0)")


def _add_evaluate(commands: Commands) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        "let the trained network act in the simulators of its tasks and score it; run again to go on",
        "  gato evaluate runs/quickstart --suites metaworld babyai --out runs/quickstart/paper\n"
        "  gato evaluate runs/79m --tasks metaworld/reach-v3 --episodes 20 --out runs/79m/reach\n"
        "  RAY_ADDRESS=head:6379 gato evaluate runs/79m --executor=ray --processes 64",
    )
    _add_run(evaluate)
    evaluate.add_argument("--suites", nargs="+", metavar="SUITE", help="its tasks of these; all, where it has none")
    evaluate.add_argument("--tasks", nargs="+", metavar="TASK", help="these (default: all that it was trained on)")
    evaluate.add_argument("--episodes", type=types.positive, default=50, metavar="N", help="of each task (default 50)")
    evaluate.add_argument(
        "--prompt",
        choices=("beginning", "end", "none"),
        default="beginning",
        help="what is shown of a demonstration (default beginning, as in the paper)",
    )
    evaluate.add_argument(
        "--prompt-tokens", type=types.positive, metavar="N", help="of it (default: as in training; the paper: 1024)"
    )
    evaluate.add_argument(
        "--memory", choices=_MEMORY, default="window", help="of a full row (default window; the paper: memory)"
    )
    evaluate.add_argument("--prompts", type=Path, metavar="DIR", help="stores DIR/suite/task of demonstrations to show")
    evaluate.add_argument("--specialists", action="store_true", help="train and play a small network a task beside it")
    _add_sampling(evaluate, "of the evaluation's episodes")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="where the results go (default: RUN/evaluation)")
    evaluate.add_argument(
        "--environments", type=types.positive, default=40, metavar="N", help="in a batch (default 40)"
    )
    evaluate.add_argument("--executor", choices=("local", "ray"), default="local", help="who plays (default local)")
    evaluate.add_argument(
        "--processes",
        type=types.positive,
        metavar="N",
        help="that act (default: the cores; 1 with an accelerator; what Ray has)",
    )
    evaluate.add_argument(
        "--simulators",
        type=types.natural,
        metavar="N",
        help="processes of environments for each that acts (default: what the cores allow); 0: in the same process",
    )
    evaluate.add_argument(
        "--step-timeout",
        type=types.seconds,
        default="60s",
        metavar="TIME",
        help="of an environment's step (default 60s)",
    )


def _add_generate(commands: Commands) -> None:
    generate = add_command(
        commands,
        "generate",
        "complete a text, caption an image, answer a question about it, or chat; shown while it is written",
        '  gato generate runs/mine "Once upon a time" --limit=200\n'
        "  gato generate runs/quickstart a --image=room.png\n"
        '  gato generate runs/quickstart --image=room.png --question="how many balls?"\n'
        '  gato generate runs/mine --chat "User talks with Gato, who knows much about birds."',
    )
    _add_run(generate)
    generate.add_argument("prompt", nargs="?", metavar="PROMPT", help="how the text begins; of a chat: who talks")
    generate.add_argument("--image", type=Path, metavar="FILE", help="what the text is about")
    generate.add_argument("--question", metavar="TEXT", help="about the image")
    generate.add_argument("--chat", action="store_true", help="answer line by line, until Ctrl-D")
    generate.add_argument(
        "--source", metavar="NAME", help="the text is like this source's (default: the first that fits)"
    )
    generate.add_argument("--limit", type=types.positive, default=64, metavar="N", help="most tokens (default 64)")
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be repeated")
    _add_sampling(generate)


def _add_serve(commands: Commands) -> None:
    serve = add_command(
        commands,
        "serve",
        "serve a trained network to robots and simulators over websockets",
        "  gato serve runs/quickstart\n"
        "  gato serve runs/mine --warm metaworld/reach-v3 --sessions=64\n"
        "  gato serve runs/mine --host=0.0.0.0 --token-file=token",
    )
    _add_run(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    serve.add_argument("--port", type=types.natural, default=8765, metavar="N", help="(default 8765; 0: any free one)")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="what clients must know (or: $GATO_TOKEN)")
    serve.add_argument("--sessions", type=types.positive, default=16, metavar="N", help="most at a time (default 16)")
    serve.add_argument("--warm", nargs="+", default=[], metavar="SOURCE", help="compile for these before listening")
    serve.add_argument(
        "--idle", type=types.seconds, default="10m", metavar="TIME", help="until a silent client goes (default 10m)"
    )
    serve.add_argument(
        "--max-message", type=types.positive, default=16, metavar="MIB", help="largest message (default 16)"
    )
    _add_sampling(serve)
    serve.add_argument("--memory", choices=_MEMORY, default="window", help="of a full row (default: window)")
    serve.add_argument(
        "--prompt",
        choices=("beginning", "end"),
        default="end",
        help="what is shown of a demonstration (default end; the paper: beginning)",
    )
    serve.add_argument(
        "--prompt-tokens", type=types.positive, metavar="N", help="of a demonstration (default: as in training)"
    )
