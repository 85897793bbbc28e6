"""TensorBoard's files of events, written by whoever calls.

tensorboardX's own writer is a thread behind a short queue. An error of the disk ends that thread, and a few numbers
later the run waits for it for ever. So only its messages and checksums are used.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import Summary, scalar


class EventFile:
    """A file of events, and what is to be appended to it. Everything raises OSError where the disk refuses."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """A new file in `folder`; of `first_step` and later, TensorBoard forgets what older files there say."""
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = (folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}").open("ab")
        self._append(file_version="brain.Event:2")
        self._append(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of a step; they are in the file when it returns."""
        values = [scalar(name, value).value[0] for name, value in metrics.items()]
        self._append(step=step, summary=Summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _append(self, **fields: Any) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, data)))
        self._file.flush()
