"""The policy server: websocket connections, each a `Conversation`, and ``GET /health`` on the same port."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import http
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gato.client.messages import PROTOCOL, encode
from gato.serving.batching import Batcher
from gato.serving.conversation import Conversation, Seats
from gato.serving.limits import Limits, ServeError, authorised
from gato.serving.policy import Policy

SPARE_CONNECTIONS = 16  # beyond the sessions: not opened yet, or turned away with a reason
RATE_SECONDS = 10.0
# A client that reads nothing for so long while something waits to be sent has lost its connection, and its seat.
SEND_SECONDS = 5.0
LAST_SECONDS = 30.0  # for answers that are being worked out when the server ends
GOING_AWAY, INTERNAL_ERROR = 1001, 1011
# What strangers send is no news: without this, every broken handshake would be a traceback on stderr.
_quiet = logging.getLogger("gato.serving.websockets")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Server:
    """Serves a policy until `drain`; made inside a running event loop.

    Args:
      token: what clients must know; None: nothing.
      say: is told what an operator should know.
    """

    def __init__(self, policy: Policy, limits: Limits, token: str | None, say: Callable[[str], None]) -> None:
        self._policy, self._limits, self._token, self._say = policy, limits, token, say
        self._batcher = Batcher(policy, limits.patience)
        self._seats = Seats(limits.sessions, self._batcher.expect)
        self._draining, self._resting = asyncio.Event(), asyncio.Event()
        self._resting.set()
        self._busy = self._steps = 0
        self._began = time.monotonic()
        self._recent: collections.deque[float] = collections.deque()  # when the last steps were

    async def run(self, host: str, port: int, ready: Callable[[int], None]) -> None:
        """Listens and returns after `drain`. ``ready`` is called with the port. Raises ServeError: cannot listen."""
        with _listening(host, port):
            listener = await serve(
                self._converse,
                host,
                port,
                process_request=self._before,
                origins=[None],  # browsers send one: no page may reach a robot through its user's browser
                compression=None,
                max_size=self._limits.message,
                max_queue=2,
                close_timeout=2.0,
                server_header=None,
                logger=_quiet,
            )
        ready(next(iter(listener.sockets)).getsockname()[1])
        await self._draining.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self._resting.wait()  # answers that are being worked out still go out
        await asyncio.gather(
            *(_close(connection, GOING_AWAY, "the server is closing") for connection in listener.connections)
        )
        listener.close()
        await listener.wait_closed()
        await self._batcher.close()

    def drain(self) -> None:
        """Begins the end: nothing new is accepted, what was asked is answered, then `run` returns."""
        self._draining.set()

    def health(self) -> dict[str, Any]:
        """What ``GET /health`` answers."""
        now = time.monotonic()
        self._forget(now)
        return {
            "status": "closing" if self._draining.is_set() else "ok",
            "sessions": self._seats.taken,
            "most_sessions": self._limits.sessions,
            "steps": self._steps,
            "steps_per_second": round(len(self._recent) / RATE_SECONDS, 1),
            "seconds": round(now - self._began, 1),
            "checkpoint_step": self._policy.meta.step,
            "protocol": PROTOCOL,
        }

    def _before(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers what is no session: health, strangers, too many."""
        path = request.path.partition("?")[0]
        if path == "/health":
            response = connection.respond(http.HTTPStatus.OK, json.dumps(self.health()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if not authorised(request.headers.get_all("Authorization"), self._token):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing or wrong\n")
        if path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "sessions are at /, health at /health\n")
        if self._draining.is_set():
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing\n")
        if len(connection.server.connections) >= self._limits.sessions + SPARE_CONNECTIONS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        conversation = Conversation(self._policy, self._batcher, self._seats, self._say)
        try:
            await _send(connection, conversation.hello(self._limits.message))
            while True:
                async with asyncio.timeout(self._limits.idle):
                    data = await connection.recv()
                if self._draining.is_set():
                    await _close(connection, GOING_AWAY, "the server is closing")
                    return
                with self._working():
                    answer = await conversation.answer(data)
                    await _send(connection, answer)
                if answer["type"] == "action":
                    self._count_step()
                elif answer.get("code") == "internal":
                    await _close(connection, INTERNAL_ERROR, "a failure of the server")
        except TimeoutError:
            await _close(connection, GOING_AWAY, f"no message for {self._limits.idle:g} s")
        except ConnectionClosed:
            pass
        finally:
            await conversation.end()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        self._busy += 1
        self._resting.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._resting.set()

    def _count_step(self) -> None:
        self._steps += 1
        now = time.monotonic()
        self._recent.append(now)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0] < now - RATE_SECONDS:
            self._recent.popleft()


def check_address_is_free(host: str, port: int) -> None:
    """Listens for a moment, as `Server.run` will once all is compiled. Raises ServeError: cannot listen."""

    async def listen() -> None:
        with _listening(host, port):
            (await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)).close()

    asyncio.run(listen())


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Raises ServeError for what the system says of an address, with the option that is at fault."""
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:  # OverflowError: no port has this number
        unknown = isinstance(error, (socket.gaierror, UnicodeError))
        option = "--host" if unknown or getattr(error, "errno", None) == errno.EADDRNOTAVAIL else "--port"
        raise ServeError(
            f"cannot listen at {host}:{port} ({getattr(error, 'strerror', None) or error}); try another {option}"
        ) from None


async def _send(connection: ServerConnection, message: Mapping[str, Any]) -> None:
    """Raises ConnectionClosed."""
    async with _reading(connection):
        await connection.send(encode(message))


async def _close(connection: ServerConnection, code: int, reason: str) -> None:
    async with _reading(connection):
        await connection.close(code, reason)


@contextlib.asynccontextmanager
async def _reading(connection: ServerConnection) -> AsyncIterator[None]:
    """Breaks the connection off if its client does not read what is being sent.

    Nothing else would: websockets' pings wait behind it, too.
    """
    try:
        async with asyncio.timeout(SEND_SECONDS):
            yield
    except TimeoutError:
        connection.transport.abort()
