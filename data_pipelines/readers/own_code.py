"""The text of a user's own code: it decides what an import makes of his data, so a change of it is another import."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_RUN = "<run_path>"  # what `runpy` calls the module of a file


def text_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The files behind a function or a callable object: the one that defines it, and what that imports of its own.

    Of a file those are modules in its folder, of a module in a package those of the package; and what they import in
    turn. Not among them: other packages (their versions are the environment's), and names that only the running
    program knows (`importlib.import_module`).
    """
    for defined in (function, type(function)):
        try:
            file = inspect.getsourcefile(defined)
        except TypeError:  # built in, or an object: its class is asked next
            continue
        if file and Path(file).is_file():
            files = _own_files(Path(file).absolute(), defined.__module__)
            return tuple(path.read_text(errors="replace") for path in files)
    return ()


def _own_files(file: Path, module: str) -> list[Path]:
    """The file itself first, the others by their names."""
    names = [] if module == _RUN else module.split(".")
    above = len(names) if file.name == "__init__.py" else max(len(names) - 1, 0)
    root = file.parents[above]
    found, waiting = {file}, [file]
    while waiting:
        for path in _imported(waiting.pop(), root, names[:1]):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return [file, *sorted(found - {file})]


def _imported(file: Path, root: Path, package: list[str]) -> Iterator[Path]:
    """The files of the modules below ``root`` that a file imports; of the package alone, if there is one."""
    try:
        tree = ast.parse(file.read_text(errors="replace"))
    except SyntaxError:  # running it says so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(root, alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if node.level else root
            inside = node.module.split(".") if node.module else []
            names = [(start, [*inside, alias.name]) for alias in node.names]  # what is imported may be a module
        else:
            continue
        for start, parts in names:
            if start == root and package and parts[:1] != package:
                continue
            for count in range(1, len(parts) + 1):
                path = start.joinpath(*parts[:count])
                yield from filter(Path.is_file, (path / "__init__.py", path.with_name(f"{path.name}.py")))
