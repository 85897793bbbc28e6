"""Who may import whom: tokenizers <- data_pipelines <- gato <- launch, and never by a bare name."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tokenizers", "data_pipelines", "launch")
# What each part may import of ours. `gato` stands for gato/model, gato/training and the other folders of its own.
ALLOWED = {
    "tokenizers": {"tokenizers"},
    "data_pipelines": {"tokenizers", "data_pipelines"},
    "gato": {"tokenizers", "data_pipelines", "gato"},
    "launch": {"tokenizers", "data_pipelines", "gato", "launch"},
}
# Only the network side knows JAX; tokenizers need numpy alone.
FORBIDDEN = {
    "tokenizers": {"jax", "flax", "optax", "orbax", "grain", "tensorflow"},
    "data_pipelines": {"jax", "flax", "optax", "orbax"},
}


def source_files() -> Iterator[tuple[str, Path]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield folder, path
    for path in sorted((ROOT / "gato").rglob("*.py")):
        if path.relative_to(ROOT / "gato").parts[0] not in FOLDERS:
            yield "gato", path


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Absolute names of everything imported, also inside functions; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(part: str, source: str) -> list[str]:
    found = []
    for name in imported_modules(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top in FOLDERS:
            found.append(f"bare import {name}")
        if top in FORBIDDEN.get(part, set()):
            found.append(f"{part} imports {top}")
        if top == "gato" and rest:
            target = rest.split(".")[0]
            target = target if target in FOLDERS else "gato"
            if target not in ALLOWED[part]:
                found.append(f"{part} imports {name}")
    return found


def test_direction_of_imports() -> None:
    files = list(source_files())
    assert {part for part, _ in files} == {*FOLDERS, "gato"}
    wrong = [f"{path.relative_to(ROOT)}: {v}" for part, path in files for v in violations(part, path.read_text())]
    assert not wrong, "\n".join(wrong)


def test_packages_of_the_network_import_each_other_one_way() -> None:
    packages = {path.parent.name for path in (ROOT / "gato").glob("*/__init__.py")} - {*FOLDERS, "client"}
    imports: dict[str, set[str]] = {}
    for _, path in source_files():
        parts = path.relative_to(ROOT).parts
        if len(parts) == 3 and parts[0] == "gato":
            names = {f"{name}.".split(".")[1] for name in imported_modules(ast.parse(path.read_text()))}
            imports.setdefault(parts[1], set()).update(names & packages - {parts[1]})
    assert "training" in imports["planning"]
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("gato", "import tokenizers"),
        ("tokenizers", "from gato.data_pipelines.episode import Episode"),
        ("tokenizers", "def f():\n    import jax"),
        ("data_pipelines", "from gato.model import presets"),
        ("gato", "from gato.launch.config import load_config"),
    ],
)
def test_the_check_sees_each_violation(part: str, source: str) -> None:
    assert violations(part, source)


def test_links_are_relative() -> None:
    for folder in FOLDERS:
        link = ROOT / "gato" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..") / folder
    assert (ROOT / "gato" / "client").readlink() == Path("..") / "client" / "gato_client"
