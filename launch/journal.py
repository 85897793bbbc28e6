"""The journal of a staged run: which stages are finished and how long each took, kept across interruptions."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.worker_process import cores
from gato.tokenizers.errors import GatoError

FILE = "timings.json"


class JournalError(GatoError):
    """A run directory that belongs to another run, or whose journal cannot be read."""


class Journal:
    """``<run>/timings.json``: ``{"settings", "stages": {name: seconds}, "finished": [name], "notes", "machine"}``.

    Attributes:
      seconds: stage -> wall-clock time spent in it so far, over all attempts that ended by themselves or by Ctrl-C.
      notes: what a stage found out and a later attempt must not find out anew.
    """

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        """Opens the journal of `run`, or begins one.

        Raises:
          JournalError: the directory holds a run with other settings.
        """
        self._path, self._settings = run / FILE, dict(settings)
        self.seconds: dict[str, float] = {}
        self.notes: dict[str, Any] = {}
        self._finished: list[str] = []
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self._path.read_text())
            self.seconds, self._finished = dict(found["stages"]), list(found["finished"])
            self.notes, before = dict(found["notes"]), found["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{self._path}: cannot be read ({error!r}); delete it or give another --out") from error
        for name, value in self._settings.items():
            if before.get(name) != value:
                raise JournalError(
                    f"{self._path.parent}: holds a run with {name} {before.get(name)}, this one has {value}; "
                    "give another --out, or delete that directory"
                )

    def is_finished(self, stage: str) -> bool:
        """Whether the stage ran to its end, now or in an earlier attempt."""
        return stage in self._finished

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside; the stage is finished if it does not raise."""
        before, began = self.seconds.get(name, 0.0), time.monotonic()
        try:
            yield
        except BaseException:
            self.seconds[name] = round(before + time.monotonic() - began, 2)
            with contextlib.suppress(OSError):  # a full disk: the error that says so is under way
                self.write()
            raise
        self.seconds[name] = round(before + time.monotonic() - began, 2)
        self._finished.append(name)
        self.write()

    def write(self) -> None:
        """Writes the file, atomically."""
        content = {
            "settings": self._settings,
            "stages": self.seconds,
            "finished": self._finished,
            "notes": self.notes,
            "machine": machine(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, json.dumps(content, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What a reader of a timing needs to know about the machine."""
    return {"cores": cores(), "processor": platform.machine(), "python": platform.python_version()}
