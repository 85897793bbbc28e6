"""Checks what a user gave for the fields of a dataclass against their annotations, before anything is built of it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from gato.tokenizers.errors import GatoError, suggest


class ConfigError(GatoError):
    """An experiment file, a field of a configuration or a value for it is wrong, or two contradict each other."""


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def check_fields(cls: type, values: Mapping[str, Any], where: str, error: type[GatoError]) -> None:
    """Raises `error` for a name in `values` that is no field of `cls`, with a suggestion, or a value of another type.

    A field that is itself a dataclass also takes a mapping, from which the caller builds it. A Literal is checked for
    its type only: the dataclass knows its choices.

    Args:
      where: the dataclass in the user's words, e.g. ``optimizer``; may be empty.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for name, value in values.items():
        path = f"{where}.{name}".lstrip(".")
        if name not in known:
            raise error(f"unknown field {path!r}; {suggest(name, known)}")
        if not _fits(value, hints[name]):
            raise error(f"{path} must be {_words(hints[name])}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is typing.Literal:
        return type(value) is type(inner[0])
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(item, inner[0]) for item in value)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, (hint, Mapping))  # type: ignore[arg-type]
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in inner)
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint):
        return "a dictionary of its fields"
    return _WORDS.get(hint, "a path")
