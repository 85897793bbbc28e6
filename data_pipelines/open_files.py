"""Files that stay open between reads: at most so many in a process, those that were used last.

A terabyte has thousands of shards and a mixture hundreds of stores, but a process may open only so many files
(`ulimit -n`, often 1,024). What is closed here is opened again when it is needed.
"""

from __future__ import annotations

import collections
import itertools
import resource
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar


def _limit() -> int:
    """Half of what the process may open: the other half is for checkpoints, sockets, devices."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2048 if allowed == resource.RLIM_INFINITY else max(16, min(2048, allowed // 2))


class OpenFiles:
    """The open files of one store; all stores of a process share `LIMIT`. Thread-safe.

    A file is closed when nobody refers to it any more, so what a thread has in hand stays usable.
    """

    LIMIT = _limit()
    _lock = threading.Lock()
    _numbers = itertools.count()
    # (store, name of the file) in the order of use; the files themselves go when their store goes.
    _order: ClassVar[collections.OrderedDict[tuple[int, str], weakref.ref[OpenFiles]]] = collections.OrderedDict()

    def __init__(self) -> None:
        self._number = next(self._numbers)
        self._files: dict[str, Any] = {}

    def get(self, name: str, open_file: Callable[[], Any]) -> Any:
        """The file of this name; opened by `open_file`, whose exceptions pass through, if it is not open."""
        key = self._number, name
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._order.move_to_end(key)
                return file
        file = open_file()  # outside the lock: other threads go on reading
        with self._lock:
            self._order[key] = weakref.ref(self)
            self._order.move_to_end(key)
            file = self._files.setdefault(name, file)
            while len(self._order) > self.LIMIT:
                (_, oldest), owner = self._order.popitem(last=False)
                store = owner()
                if store is not None:
                    del store._files[oldest]
        return file
