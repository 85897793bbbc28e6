"""What the pages and the help texts name exists: files, sources, commands with their options."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from gato.data_pipelines.environments.registry import DOCUMENTS, get_source, our_suites
from gato.launch.cli import build_parser, parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PARTS = {name.partition("/")[0] for name in (*our_suites(), *DOCUMENTS)}
SOURCE = re.compile(rf"(?<![\w/])(?:{'|'.join(sorted(PARTS))})/[A-Za-z0-9][\w-]*(?![\w/.*])")


def helps(parser: argparse.ArgumentParser | None = None) -> dict[str, str]:
    """Command ("data import") -> its help, of all commands and their sub-commands."""
    found = {} if parser else {"": build_parser().format_help()}
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found[name] = command.format_help()
                found |= {f"{name} {inside}": text for inside, text in helps(command).items()}
    return found


def texts() -> dict[str, str]:
    return {str(page.relative_to(ROOT)): page.read_text() for page in PAGES} | helps()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_sub_commands_are_looked_at() -> None:
    assert "gato data import" in helps()["data import"].partition("examples:")[2]


def test_named_sources_exist() -> None:
    found = {name for text in texts().values() for name in SOURCE.findall(text)}
    assert len(found) > 10
    for name in found:
        get_source(name)


def test_commands_in_the_texts_are_understood() -> None:
    """Every line that begins with `gato`, alone or in a block, is parsed by the command line itself."""
    joined = [re.sub(r"\\\n\s*", " ", text) for text in texts().values()]
    lines = [line for text in joined for line in re.findall(r"^\s*(?:\$ )?gato (.+)$", text, re.MULTILINE)]
    # In a sentence a command may stand without its arguments.
    mentioned = [line for text in joined for line in re.findall(r"`gato ([^`]+)`", text)]
    lines += [line for line in mentioned if re.search(r"[/=]| --", line)]
    complete = [line.split("#")[0].strip() for line in lines if not re.search(r"\.\.\.|…|[\[{<]|--help", line)]
    assert len(complete) > 10
    for line in complete:
        parse(shlex.split(line))
