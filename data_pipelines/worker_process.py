"""Processes that work for another one: how many, how they behave, and how they end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """The initialiser of a worker: Ctrl-C ends it silently, and it never outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def worker_pool(
    processes: int, initializer: Callable[..., None] = start_worker, initargs: tuple[Any, ...] = ()
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Fresh processes (no fork: the caller may hold JAX's threads), for as long as the context is entered.

    An exception inside, an interruption too, ends them at once: what they are in the middle of is not waited for.
    """
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(processes, context, initializer, initargs)
    try:
        yield executor
    except BaseException:
        # The executor itself only ever waits (Python 3.14 has `terminate_workers` for this).
        for process in list((executor._processes or {}).values()):
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
