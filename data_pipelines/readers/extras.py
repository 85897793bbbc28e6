"""Packages that only some formats need: imported when one is read, with one line that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from gato.data_pipelines.environments.base import install_command
from gato.data_pipelines.errors import SourceError


def require(module: str, what: str, extra: str = "formats") -> Any:
    """The module. Raises SourceError with the command that installs it: our extra of this name."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = error.name or module
        raise SourceError(
            f"reading {what} needs the package {package}: in the checkout: {install_command(extra)}"
        ) from error
