"""What every benchmark writes with ``--json``: its rows, and what is needed to understand them later."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_result(path: str | Path | None, rows: Sequence[Any], packages: Sequence[str], **more: Any) -> None:
    """The rows, machine, command and versions of the packages that are installed, as JSON; nothing where path is None.

    ``more``: further entries, e.g. the device.
    """
    if path is None:
        return
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    result = {
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": versions,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **more,
        "rows": rows,
    }
    Path(path).write_text(json.dumps(result, indent=1) + "\n")
