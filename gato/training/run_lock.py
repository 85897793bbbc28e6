"""One run at a time in a directory: a lock that the operating system keeps for this process, and drops when it ends.

A second training would delete the save that the first has in flight, taking it for one that was interrupted, and
rewrite its metrics. The lock's file stays; alone, it means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from gato.tokenizers.errors import GatoError

# Seconds. A file server remembers a client that is gone for its lease (90 s by default on Linux), and what was lost
# with a machine is started again sooner than that.
WAIT = 120.0


class LockError(GatoError):
    """Another process is at work in the directory."""


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """While entered, no other process enters it for the same folder and the same `what`, e.g. ``training``.

    Waits for the other one to end, and says so. Where a file system knows no locks, it says that and goes on without.

    Raises:
      LockError: the other one is still there after `WAIT` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{what}.lock").open("a+") as file:
        _take(file, folder, what)
        yield


def _take(file: TextIO, folder: Path, what: str) -> None:
    end, told = time.monotonic() + WAIT, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            taken = f"{folder}: another {what} is under way there ({file.read().strip()})"
            if time.monotonic() >= end:
                raise LockError(f"{taken}; wait for its end, or give another directory") from None
            if not told:
                _say(f"{taken}; waiting up to {WAIT:.0f} s for its end")
                told = True
            time.sleep(0.5)
        except OSError as error:
            _say(f"{folder}: its file system has no locks ({error.strerror}): nothing keeps a second {what} out")
            return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
