"""English text that every machine with Python has: the standard library's docstrings and its help topics."""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import sys
import sysconfig
import warnings
from collections.abc import Iterator

_SKIPPED = {"test", "tests", "idle_test", "_vendor", "_bundled"}  # tests and other people's code
_SHORTEST = 32  # characters; shorter docstrings say little


@functools.cache
def _documents() -> tuple[str, ...]:
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    texts: set[str] = set()
    for name in sys.stdlib_module_names - {"pydoc_data"}:
        for path in (folder / f"{name}.py", *(folder / name).rglob("*.py")):
            if path.is_file() and not _SKIPPED.intersection(path.relative_to(folder).parts):
                texts.update(_docstrings(path))
    for module in sys.builtin_module_names:
        texts.update(_builtin_docstrings(module))
    from pydoc_data.topics import topics

    texts.update(topics.values())
    cleaned = {text.strip() for text in texts}
    return tuple(sorted(text for text in cleaned if len(text) >= _SHORTEST))


def stdlib_documents() -> list[str]:
    """One text for each docstring and help topic, without repetitions, sorted. The first call takes seconds.

    Source files are parsed, not imported. Other versions of Python have other texts.
    """
    return list(_documents())


def _docstrings(path: pathlib.Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in _statements(tree) if isinstance(node, kinds))
    return [text for text in found if text]


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The tree and all statements below it; ast.walk would visit every expression too, which takes most of the time."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        for blocks in ("body", "orelse", "finalbody", "handlers", "cases"):
            nodes.extend(getattr(node, blocks, ()))


def _builtin_docstrings(name: str) -> list[str]:
    module = __import__(name)
    texts: list[str] = []
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        for value in (owner, *vars(owner).values()):
            text = getattr(value, "__doc__", None)
            if isinstance(text, str):
                texts.append(inspect.cleandoc(text))
    return texts
