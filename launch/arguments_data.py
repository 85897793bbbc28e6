"""The arguments of ``gato data`` and its actions."""

from __future__ import annotations

from pathlib import Path

from gato.data_pipelines.import_arguments import add_import_arguments
from gato.data_pipelines.worker_process import cores
from gato.launch import argument_types as types
from gato.launch.arguments import Commands, add_command


def add_data_command(commands: Commands) -> None:
    """Adds the command with its four actions."""
    data = add_command(
        commands,
        "data",
        "import, check and look at data; train a text tokenizer",
        "  gato data import episodes/ data/mine\n  gato data check data/*\n  gato data import --help",
    )
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_import(actions)
    _add_check(actions)
    _add_show(actions)
    _add_train_tokenizer(actions)


def _add_import(actions: Commands) -> None:
    load = add_command(
        actions,
        "import",
        "turn data of another format into a training store",
        "  gato data import ~/minari/D4RL/door/human-v2 data/door\n"
        "  gato data import episodes/ data/mine --values actions.action=6\n"
        "  gato data import my_robot.py:ROBOT data/robot --path /mnt/recordings --bad skip",
    )
    add_import_arguments(load)
    load.add_argument("--processes", type=types.positive, default=cores(), metavar="N", help="(default: the cores)")


def _add_check(actions: Commands) -> None:
    check = add_command(
        actions,
        "check",
        "statistics of every leaf, and what is wrong",
        "  gato data check data/door\n  gato data check data/* --episodes 500 --json check.json",
    )
    check.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    check.add_argument(
        "--episodes", type=types.positive, metavar="N", help="read so many of each, at random (default: all)"
    )
    check.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def _add_show(actions: Commands) -> None:
    show = add_command(
        actions,
        "show",
        "write a page: frames, actions, tokens with their loss, packed rows",
        "  gato data show data/door\n  gato data show data/* --out data.html --length 512",
    )
    show.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    show.add_argument("--out", type=Path, default=Path("data.html"), metavar="FILE", help="(default data.html)")
    show.add_argument("--length", type=types.positive, default=1024, metavar="L", help="tokens in a row (default 1024)")
    show.add_argument("--text-model", type=Path, metavar="FILE", help="SentencePiece model (default: the shipped one)")


def _add_train_tokenizer(actions: Commands) -> None:
    text = add_command(
        actions,
        "train-tokenizer",
        "train a SentencePiece model on texts",
        "  gato data train-tokenizer data/wiki notes/*.txt --out text.model --pieces 32000",
    )
    text.add_argument(
        "texts", nargs="+", type=Path, metavar="TEXT", help="stores with text, text files, JSONL, parquet"
    )
    text.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model")
    text.add_argument(
        "--pieces", type=types.positive, default=32_000, metavar="N", help="at least 1024 (default 32000)"
    )
