"""Experiment files: read, changed from the command line, turned into frozen dataclasses.

An experiment is a Python file with ``get_config()`` (or ``get_config(argument)``) that returns an
`ml_collections.ConfigDict`. ``--config=FILE`` or ``--config=FILE:argument`` names it; ``--config=gato_79m`` is the file
of that name in `gato/launch/configs/`. ``--config.optimizer.learning_rate=3e-4`` changes one value and keeps its type.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import dataclasses
import importlib.util
import inspect
import json
import traceback
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from gato.fields import ConfigError, check_fields
from gato.tokenizers.errors import GatoError, suggest

if TYPE_CHECKING:
    from gato.training.config import TrainConfig


def shipped_configs() -> list[str]:
    """Names of the experiment files in `gato/launch/configs/`."""
    folder = files("gato.launch").joinpath("configs")
    names = [path.relative_to(str(folder)).with_suffix("") for path in Path(str(folder)).rglob("*.py")]
    return sorted(name.as_posix() for name in names if name.name != "__init__")


def load_config(reference: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The configuration of ``FILE[:argument]`` or of a shipped name, with ``a.b=value`` overrides applied, locked.

    Raises:
      ConfigError: no such file, no `get_config` in it, an unknown key (with a suggestion) or a value of another type.
    """
    name, _, argument = reference.partition(":")
    path = Path(name)
    if not path.suffix and not path.is_file():
        if name not in shipped_configs():
            raise ConfigError(f"--config={reference}: no such experiment; {suggest(name, shipped_configs())}")
        path = Path(str(files("gato.launch").joinpath("configs", f"{name}.py")))
    if not path.is_file():
        raise ConfigError(f"--config={reference}: no file {path}; shipped experiments: {', '.join(shipped_configs())}")
    config = _get_config(path, argument)
    for override in overrides:
        apply_override(config, override)
    return config.lock()


def _get_config(path: Path, argument: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"gato_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: an experiment is a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    with _mistakes_in(path, spec.origin):
        spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{path}: defines no get_config() that returns an ml_collections.ConfigDict")
    takes_argument = bool(inspect.signature(get_config).parameters)
    if argument and not takes_argument:
        raise ConfigError(f"{path}: its get_config() takes no argument, got {argument!r}")
    with _mistakes_in(path, spec.origin):
        config = get_config(argument) if argument else get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config() returned {type(config).__name__}, not an ml_collections.ConfigDict")
    return config


@contextlib.contextmanager
def _mistakes_in(path: Path, file: str | None) -> Iterator[None]:
    """What the code of an experiment file raises, as one line that names the place. `file`: its name in tracebacks."""
    try:
        yield
    except GatoError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else (lines or [1])[-1]
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}; GATO_DEBUG=1 shows more") from error


def apply_override(config: ConfigDict, override: str) -> None:
    """Applies ``a.b=value`` in place. The value is read as the type that stands there.

    None takes any literal, and anything takes None: `train_config` compares them with the types of the fields.
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--config.{override}: give a value, e.g. --config.{override}=...")
    node: Any = config
    *parents, last = path.split(".")
    for depth, key in enumerate([*parents, last]):
        where = ".".join(path.split(".")[: depth + 1])
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"--config.{path}: {'.'.join(path.split('.')[:depth])} is a value and has no keys")
        if key not in node:
            raise ConfigError(f"--config.{path}: no key {where!r}; {suggest(key, node.keys())}")
        if depth < len(parents):
            node = node[key]
    if isinstance(node[last], ConfigDict):
        keys = ", ".join(f"{path}.{key}" for key in node[last])
        raise ConfigError(f"--config.{path}: is a group, set one of its keys: {keys}")
    with node.unlocked(), node.ignore_type():
        node[last] = _parse(text, node[last], f"--config.{path}")


def _parse(text: str, old: Any, where: str) -> Any:
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise ConfigError(f"{where}: {text!r} is no {type(old).__name__} (now {old!r})")
    return value


def default_config() -> ConfigDict:
    """The defaults of every key of `TrainConfig` but ``sources``; an experiment gives these and ``model.preset``.

    The other keys of ``model`` are None, which means the preset's own value.
    """
    from gato.model.config import ModelConfig
    from gato.training.config import TrainConfig

    values: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        if field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
    model = {"preset": None, **{field.name: None for field in dataclasses.fields(ModelConfig)}}
    return ConfigDict({"model": model, **{name: _group(value) for name, value in values.items()}})


def _group(value: Any) -> Any:
    """A dataclass as a dictionary, anything else as it is."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


_PLANNED = contextvars.ContextVar("planned", default=False)


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """Inside, experiment files are read where their data are not: folders without stores give one source each."""
    token = _PLANNED.set(True)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def sources_in(folder: str, **settings: Any) -> list[dict[str, Any]]:
    """A source for every store below `folder`, with these settings of `SourceConfig`. Raises ConfigError for none."""
    found = list(stores_in(Path(folder)))
    if not found and _PLANNED.get():
        found = [Path(folder)]
    if not found:
        raise ConfigError(
            f"{folder}: holds no stores; write some with: gato collect --out {folder}, "
            f"or: gato data import SOURCE {folder}/NAME"
        )
    return [{"path": str(path), **settings} for path in found]


def domain_in(folder: str, weight: float, **settings: Any) -> list[dict[str, Any]]:
    """`sources_in` a folder that have `weight` together: each in proportion to its timesteps.

    So the tasks of a domain are visited as they would be in one large store. Raises ConfigError for no store.
    """
    found = sources_in(folder, **settings)
    steps = [_timesteps(Path(source["path"])) for source in found]
    return [{**source, "weight": weight * count / sum(steps)} for source, count in zip(found, steps, strict=True)]


def _timesteps(store: Path) -> int:
    """Of a store; 1 where the data are not."""
    file = store / "store.json"
    return max(1, int(json.loads(file.read_text()).get("timesteps", 1))) if file.exists() else 1


def stores_in(folder: Path) -> Iterator[Path]:
    """The stores at and below a folder, in the order of their paths.

    What lies inside a store belongs to it, and folders with a dot hold unfinished ones. A link may lead to a store, but
    is followed no further.
    """
    if (folder / "store.json").exists():
        yield folder
    elif folder.is_dir():
        for inside in sorted(folder.iterdir()):
            further = inside.is_dir() and not inside.is_symlink()
            if not inside.name.startswith(".") and (further or (inside / "store.json").exists()):
                yield from stores_in(inside)


def train_config(config: ConfigDict) -> TrainConfig:
    """The frozen `TrainConfig` of an experiment.

    Its keys are the fields of `TrainConfig`, except ``model``, which names a preset and what differs from it:
    ``{"preset": "gato_79m", "position": "rope"}``. The embedding table is fitted to the experiment's vocabulary.

    Raises:
      GatoError: an unknown key (with a suggestion), a value of another type, or values that contradict each other.
    """
    from gato.model.presets import preset  # here: jax takes a second to import, which `gato --help` need not wait for
    from gato.tokenizers.text import TextTokenizer
    from gato.tokenizers.vocabulary import Vocabulary
    from gato.training.config import TrainConfig

    fields = config.to_dict()
    model = {key: value for key, value in fields.pop("model").items() if value is not None}
    if not isinstance(model.get("preset"), str):
        raise ConfigError("config.model: name a preset, e.g. config.model.preset = 'gato_79m'")
    needed = ("text_model", "extra_tokens")  # before the rest, for the vocabulary
    check_fields(TrainConfig, {name: fields[name] for name in needed if name in fields}, "", ConfigError)
    vocabulary = Vocabulary(TextTokenizer.load(fields.get("text_model")).size, tuple(fields.get("extra_tokens", ())))
    return TrainConfig.from_json({**fields, "model": preset(model.pop("preset"), vocabulary, **model)})
