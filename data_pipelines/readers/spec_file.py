"""``spec.json``, which may stand beside plain arrays: what their leaves are, and metadata of the source.

    {"observations": {"NAME": {"modality": "discrete", "values": 4}}, "actions": {...}, "metadata": {"task": "..."}}

A leaf has the fields of `LeafSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import SpecError, suggest
from gato.tokenizers.spec import LeafSpec

GROUPS = ("observations", "actions")
_FIELDS: dict[str, tuple[type, ...]] = {
    "modality": (str,),
    "shape": (list,),
    "low": (int, float, list),
    "high": (int, float, list),
    "values": (int,),
    "companded": (bool,),
}


def read_spec(file: Path) -> tuple[dict[str, LeafSpec], dict[str, Any]]:
    """Leaves ("observations.NAME" or "actions.NAME") and metadata; nothing if there is no such file.

    Raises:
      SourceError: anything in it that is not understood; the message names the file and the field.
    """
    if not file.exists():
        return {}, {}
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise SourceError(f"{file}: is no JSON: {error}") from None
    _check_keys(data, (*GROUPS, "metadata"), str(file))
    metadata = data.get("metadata", {})
    _check_keys(metadata, None, f"{file}: metadata")
    leaves = {}
    for group in GROUPS:
        named = data.get(group, {})
        _check_keys(named, None, f"{file}: {group}")
        for name, leaf in named.items():
            leaves[f"{group}.{name}"] = _leaf(leaf, f"{file}: {group}.{name}")
    return leaves, metadata


def _leaf(data: Any, where: str) -> LeafSpec:
    _check_keys(data, _FIELDS, where)
    if "modality" not in data:
        raise SourceError(f"{where}: has no modality: text, image, discrete or continuous")
    for field, value in data.items():
        if not isinstance(value, _FIELDS[field]) or (isinstance(value, bool) and bool not in _FIELDS[field]):
            wanted = " or ".join("number" if kind is float else kind.__name__ for kind in _FIELDS[field])
            raise SourceError(f"{where}: {field} is {value!r}, not of type {wanted}")
    try:
        return LeafSpec.from_json(data)
    except (TypeError, ValueError, SpecError) as error:
        raise SourceError(f"{where}: {error}") from None


def _check_keys(data: Any, known: Iterable[str] | None, where: str) -> None:
    """Raises SourceError if the data are no object, or have a key that is not known (None: any is)."""
    if not isinstance(data, dict):
        raise SourceError(f"{where}: {json.dumps(data)[:40]} instead of an object {{...}}; see docs/data.md")
    for key in data:
        if known is not None and key not in known:
            raise SourceError(f"{where}: unknown key {key!r}; {suggest(key, known)}")
