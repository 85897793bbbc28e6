"""Checksums of everything in a folder: `manifest.sha256`, in the format of ``sha256sum``, written last.

So one file says that a folder is complete and what must be in it, and nothing of ours is needed to check it:
``cd FOLDER && sha256sum --check --quiet manifest.sha256``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from gato.data_pipelines.worker_process import cores

FILE = "manifest.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_THREADS = 8  # hashlib works outside Python's lock


def write_manifest(folder: Path) -> None:
    """Reads every file back and writes their checksums, durably and in one move."""
    names = _files(folder)
    lines = [f"{checksum}  {name}\n" for name, checksum in zip(names, _checksums(folder, names), strict=True)]
    temporary = folder / f"{FILE}.tmp"
    with temporary.open("w") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE)
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def damage(folder: Path, parts: Collection[str] | None = None, share: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with a folder that has a manifest: ``file: what``, each; empty if every byte is as it was written.

    Args:
      parts: look into these subfolders only, and at the files beside them; None: everything.
      share: (i, n): read every n-th file from the i-th on, so that n processes read all of them.
    """
    listed, found = {}, []
    for line in (folder / FILE).read_bytes().decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            return [f"{FILE}: {line[:80]!r} is no line of a manifest"]
        listed[os.path.normpath(match[2])] = match[1]

    def looked_at(name: str) -> bool:
        top, _, below = name.partition("/")
        return parts is None or not below or top in parts

    present = set(_files(folder))
    found += [f"{name}: missing" for name in sorted(listed.keys() - present) if looked_at(name)]
    found += [f"{name}: not in {FILE}" for name in sorted(present - listed.keys()) if looked_at(name)]
    names = [name for name in sorted(present & listed.keys()) if looked_at(name)][share[0] :: share[1]]
    for name, checksum in zip(names, _checksums(folder, names), strict=True):
        if checksum != listed[name]:
            found.append(f"{name}: not what was written (its checksum differs from {FILE})")
    return found


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path not in (FILE, f"{FILE}.tmp"))


def _checksums(folder: Path, names: Sequence[str]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(min(_THREADS, cores())) as threads:
        return list(threads.map(lambda name: _checksum(folder / name), names))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
