"""Files that are replaced as a whole: a reader, or an interruption, never meets half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file in one move, its content on the disk first; several processes may, and the last one's stays.

    Raises:
      OSError: it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
