"""``gato generate``: text from a trained network, shown while it is written."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable

from gato.inference.agent import Agent
from gato.inference.chat import AGENT, PROMPT, USER, Chat
from gato.inference.documents import make_document
from gato.tokenizers.errors import SpecError, Terminated, printed
from gato.training.setup import enable_compilation_cache


def run(arguments: argparse.Namespace) -> None:
    """Writes one text, or answers until the input ends."""
    enable_compilation_cache()
    agent = Agent.from_checkpoint(arguments.checkpoint, arguments.seed)
    source, document = make_document(agent.meta.sources, arguments.image, arguments.question, arguments.source)
    options = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "limit", "stop")}
    try:
        if arguments.chat:
            converse(Chat(agent, source, document, arguments.prompt or PROMPT, **options))
        else:
            show(agent.stream(source, document, begin=arguments.prompt, **options))
    except BrokenPipeError:  # the reader has seen enough (`| head`); what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def converse(chat: Chat) -> None:
    """Reads lines until the input ends (Ctrl-D) and answers each; Ctrl-C ends an answer."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes of another encoding are no reason to stop
    while True:
        try:
            words = input(f"{USER}: " if sys.stdin.isatty() else "").strip()
        except EOFError:
            print()
            return
        if not words:
            continue
        print(f"{AGENT}:", end="", flush=True)
        try:
            show(chat.say(words))
        except Terminated:  # SIGTERM ends it all
            raise
        except KeyboardInterrupt:
            print()
        except SpecError as error:  # a line that is too long; the next one may not be
            print(flush=True)
            print(f"gato: {printed(error)}", file=sys.stderr, flush=True)


def show(pieces: Iterable[str]) -> None:
    """Prints each piece when it comes, whatever the terminal's encoding can show of it, and ends the line."""
    encoding = sys.stdout.encoding or "utf-8"
    for piece in pieces:
        print(piece.encode(encoding, "replace").decode(encoding), end="", flush=True)
    print(flush=True)
