"""Between the event loop and the thread that owns JAX: requests of all sessions become batches.

While a batch runs, the next one gathers by itself. When the thread is free, a batch begins as soon as every open
session has sent its observation, or none has come for a few milliseconds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gato.data_pipelines.environments.base import Action
from gato.serving.policy import Policy, Step
from gato.tokenizers.errors import GatoError

T = TypeVar("T")
# However many come one after the other: a batch waits no longer than this share of the time that the last one took.
SHARE = 0.25


class LostError(Exception):
    """A failure of the server took this session's memory; its connection has to go."""


class Batcher:
    """Runs a `Policy` on a thread of its own.

    Args:
      patience: seconds without a new observation after which a batch begins.
    """

    def __init__(self, policy: Policy, patience: float) -> None:
        self._policy, self._patience = policy, patience
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "policy")
        self._waiting: list[tuple[Step, asyncio.Future[Action]]] = []
        self._arrived = asyncio.Event()
        self._sessions = 0
        self._seconds = 0.0  # that the last batch took
        self._task = asyncio.create_task(self._run())

    async def act(self, step: Step) -> Action:
        """The action. Raises GatoError (refused) or LostError."""
        answer: asyncio.Future[Action] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, answer))
        self._arrived.set()
        return await answer

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """A method of the policy, on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def expect(self, sessions: int) -> None:
        """So many sessions are open."""
        self._sessions = sessions
        self._arrived.set()

    async def close(self) -> None:
        """Ends the thread after what it is doing."""
        self._task.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await self._gather()
            batch, self._waiting = self._waiting, []
            began = time.monotonic()
            results: Sequence[Action | GatoError | LostError]
            try:
                results = await self.call(self._policy.act, [step for step, _ in batch])
            except Exception as error:
                # A bug or the end of the device's memory: the batches' caches may be gone.
                await self.call(self._policy.drop, [step.session for step, _ in batch])
                lost = LostError("a failure of the server")
                lost.__cause__ = error
                results = [lost] * len(batch)
            self._seconds = time.monotonic() - began
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, (GatoError, LostError)):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    async def _gather(self) -> None:
        """Returns once there is a batch worth running."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + max(self._patience, SHARE * self._seconds)
        while len(self._waiting) < self._sessions:
            self._arrived.clear()
            try:
                async with asyncio.timeout(min(self._patience, latest - loop.time())):
                    await self._arrived.wait()
            except TimeoutError:
                return
