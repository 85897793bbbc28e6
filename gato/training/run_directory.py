"""The run directory: config.json, what the run did with every parameter, and the refusal to mix two runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gato.data_pipelines.atomic_file import replace_file
from gato.fields import ConfigError
from gato.tokenizers.errors import GatoError
from gato.training.checkpoint import saved_steps
from gato.training.config import TrainConfig

CONFIG_FILE = "config.json"
PARAMETERS_FILE = "parameters.txt"
# Fields that may differ on resume: they change what is written, how fast, and on how much memory. Those of the second
# kind leave the mathematics as they are, but sums run in another order, so the last bits may differ.
_FREE = (
    "log_every",
    "checkpoint_every",
    "keep",
    "on_nonfinite",
    "validation_every",
    "validation_batches",
    "wandb",
    "loader_threads",
    "loader_workers",
    *("mesh", "model.remat", "model.attention", "model.attention_block"),
)

# Nor where the data and the text tokenizer lie: their contents are compared on resume.
_PLACES = re.compile(r"sources\[\d+\]\.path|text_model")


def prepare(run_dir: Path, config: TrainConfig) -> None:
    """Creates the directory and its config.json (process 0), or checks that it belongs to this configuration.

    Raises:
      ConfigError: the directory holds a run of another configuration; the message lists every difference.
    """
    path = run_dir / CONFIG_FILE
    new = _with_places(config.to_json(), lambda place: _portable(place, run_dir))
    if path.exists() and saved_steps(run_dir):  # before the first checkpoint there is nothing to mix
        differences = config_differences(_completed(_read(path)), new)
        if differences:
            raise ConfigError(
                f"{run_dir} holds a run with another configuration; give another run directory, or the saved values to "
                f"resume it\n\n{_table(differences)}"
            )
    if jax.process_index() != 0:
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(new, indent=2) + "\n")


def read_config(run_dir: Path) -> TrainConfig:
    """The configuration of a run, its paths absolute. Raises `ConfigError` if the file is damaged."""
    data = _read(run_dir / CONFIG_FILE)
    return TrainConfig.from_json(_with_places(data, lambda place: os.path.normpath(run_dir.absolute() / place)))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON ({error}); restore the file that training wrote") from error


def _completed(data: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the default of every field that the version that wrote it did not have yet.

    So a new field's default has to mean what was done before there was the field.
    """
    try:
        return TrainConfig.from_json(data).to_json()
    except GatoError:
        return data  # a field or a value that this version does not know: the comparison will show it


def _portable(place: str, run_dir: Path) -> str:
    """What lies in the run directory is named from there, so that the directory can be moved; the rest absolutely."""
    absolute, folder = Path(place).absolute(), run_dir.absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _with_places(data: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The configuration with every path changed."""
    places = {name: change(data[name]) for name in ("text_model", "initial") if data.get(name) is not None}
    return {
        **data,
        "sources": [{**source, "path": change(source["path"])} for source in data["sources"]],
        **places,
    }


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, saved value, given value) of everything that decides the numbers of a run and differs."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    differences = []
    for path in sorted({*before, *after}):
        if (
            not any(path == free or path.startswith(f"{free}.") for free in _FREE)
            and not _PLACES.fullmatch(path)
            and before.get(path, "(absent)") != after.get(path, "(absent)")
        ):
            differences.append((path, str(before.get(path, "(absent)")), str(after.get(path, "(absent)"))))
    return differences


def _table(differences: Sequence[tuple[str, str, str]]) -> str:
    rows = [("field", "saved", "given"), *differences]
    fields, saved = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {field:{fields}}  {old:{saved}}  {new}" for field, old, new in rows)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def write_parameters(run_dir: Path, params: Any, decayed: Any) -> int:
    """Process 0 lists every parameter's path, shape, dtype, sharding and whether it is decayed. Returns the number."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    total = sum(leaf.size for _, leaf in leaves)
    lines = [f"{total:,} parameters in {len(leaves)} arrays"]
    for (path, leaf), decay in zip(leaves, jax.tree.leaves(decayed), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = getattr(leaf.sharding, "spec", leaf.sharding)
        lines.append(f"{name}  {leaf.shape}  {leaf.dtype}  {spec}  {'decayed' if decay else 'not decayed'}")
    if jax.process_index() == 0:
        (run_dir / PARAMETERS_FILE).write_text("\n".join(lines) + "\n")
    return total
