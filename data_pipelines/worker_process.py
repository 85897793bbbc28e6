"""Processes that work for another one: how many, how they behave, and how they end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_channel: Any = None


def start_worker(channel: Any = None, on_signal: signal.Handlers = signal.SIG_DFL) -> None:
    """The initialiser of a worker: Ctrl-C and SIGTERM end it silently, and it never outlives its parent.

    Args:
      channel: the queue of `tell`, for `as_finished` of the parent.
      on_signal: ``SIG_IGN`` where the parent needs the worker until it has stopped in its own way: Ctrl-C, and some
        clusters' SIGTERM, reach all processes of a command.
    """
    global _channel
    _channel = channel
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


def tell(progress: Any) -> None:
    """In a worker that was started with a channel: sends the parent something."""
    _channel.put(progress)


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


def as_finished(
    waiting: Mapping[concurrent.futures.Future[Any], _T], channel: Any, advance: Callable[..., None]
) -> Iterator[tuple[_T, Any]]:
    """What each future stands for and its result, in the order in which they finish.

    Meanwhile, and once more at the end, whatever the workers put into `channel` (a queue) is given to `advance`.
    """
    left = set(waiting)
    while left:
        done, left = concurrent.futures.wait(left, 0.5, concurrent.futures.FIRST_COMPLETED)
        _drain(channel, advance)
        for future in done:
            yield waiting[future], future.result()
    _drain(channel, advance)


def _drain(channel: Any, advance: Callable[..., None]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            advance(channel.get_nowait())
