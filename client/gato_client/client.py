"""One session with a policy server, for a robot's or a simulator's loop; it survives the server's restart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from .messages import PROTOCOL, MessageError, decode, encode

FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0


class ClientError(Exception):
    """What goes wrong between a client and its server."""


class RefusedError(ClientError):
    """The server refused a request and says why; the session goes on as if it had not been sent.

    Attributes:
      code: "mistake" (the request is wrong) or "full" (no free session).
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AuthenticationError(ClientError):
    """The server wants another token."""


class UnreachableError(ClientError):
    """No server there, or it did not answer in time, or failed."""


class FailedError(UnreachableError):
    """The server failed at a request, and the session with it: its own bug, or the end of its memory."""


class Client:
    """A session: one agent's body, its prompt, and what the server remembers of its episode.

    Requests are answered one after the other; a client belongs to one thread. Where the connection breaks, or the
    server fails at a request, the request connects again, opens the session again with the same prompt, and is sent
    again. The memory is then that of a new episode: the prompt, and nothing of the timesteps before (`reconnected`
    counts how often this happened).

    Attributes:
      hello: what the server said first: ``sources`` (names), ``checkpoint_step``, ``recipe``, ``max_message`` (bytes).
      session: what it answered to `open`: ``source``, and ``spec``, the leaves of observations and actions.
      reconnected: how often a running session was opened again.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 60.0,
        max_size: int = 1 << 24,
    ) -> None:
        """Connects.

        Args:
          url: ``ws://host:port``, or ``wss://`` behind a proxy that ends TLS.
          token: as the server has it.
          timeout: seconds until an answer must be there; the first of an embodiment waits for its compilation.
          patience: seconds for which a lost server is looked for before a request gives up.
          max_size: of a message from the server, in bytes.

        Raises:
          UnreachableError: nobody answers there (at once: only a server that was lost is looked for).
          AuthenticationError: a wrong token. ClientError: another protocol.
        """
        self._url, self._token = url, token
        self._timeout, self._patience, self._max_size = timeout, patience, max_size
        self._connection: ClientConnection | None = None
        self._stack = contextlib.ExitStack()
        self._opened: bytes | None = None  # the request that opened the session, its prompt included
        self.hello: dict[str, Any] = {}
        self.session: dict[str, Any] = {}
        self.reconnected = 0
        self._connect()

    def open(
        self,
        source: str,
        prompt: Mapping[str, Any] | str | None = None,
        *,
        target: float | None = None,
        seed: int | None = None,
    ) -> None:
        """Begins a session, in place of the one before.

        Args:
          source: name of a source or task of the server's checkpoint.
          prompt: a demonstration, ``{"observations": {leaf: [T, ...]}, "actions": {leaf: [T, ...]}, "rewards": [T]}``
            (rewards only for recipes that condition on them), or the name of a source, one of whose held-out
            demonstrations the server takes, or None.
          target: what the recipe is conditioned on; None: its default.
          seed: decides, with the server's own, everything that is sampled, whoever else is served; None: one that no
            other session has.

        Raises:
          RefusedError: unknown source, a prompt that does not match its spec, no free session. The session before, if
            there was one, goes on.
        """
        request = {"type": "open", "source": source, "prompt": prompt, "target": target}
        data = _encode(request if seed is None else {**request, "seed": int(seed)})
        before, connection = self._opened, self._connection
        self._opened = None  # should the connection break now, only this one is opened
        try:
            self.session = self._request(data)
        except RefusedError:
            self._opened = before
            if self._connection is not connection:  # it broke, and the session before with it
                self._disconnect()
            raise
        self._opened = data

    def act(self, observation: Mapping[str, Any], reward: float | None = None) -> dict[str, np.ndarray]:
        """The next action, leaf path -> array.

        Args:
          observation: leaf path -> array, or text; flat or nested.
          reward: what followed the last action, for recipes that condition on it.

        Raises:
          RefusedError: the observation does not match the spec; the message names the leaf.
          UnreachableError: the server was lost and did not come back, or (FailedError) fails at this request.
        """
        return self._request(_encode({"type": "act", "observation": observation, "reward": reward}))["action"]

    def reset(self) -> None:
        """A new episode begins: only the prompt stays."""
        self._request(_encode({"type": "reset"}))

    def close(self) -> None:
        """Ends the session and the connection. Never fails."""
        self._opened = None
        self._disconnect()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, data: bytes) -> dict[str, Any]:
        """The answer. A lost connection is made anew, the session opened again, and the request sent again."""
        if len(data) > self.hello["max_message"]:
            raise RefusedError(
                f"the request has {len(data):,} bytes, the server takes {self.hello['max_message']:,}", "mistake"
            )
        until: float | None = None
        delay, failed = FIRST_DELAY, False
        while True:
            try:
                if self._connection is None:
                    self._connect()
                    self._open_again()
                return self._exchange(data)
            except UnreachableError as error:
                self._disconnect()
                # A failure takes the memory of all who share the batch: what causes it twice is not sent a third time.
                if failed and isinstance(error, FailedError):
                    raise
                failed = failed or isinstance(error, FailedError)
                now = time.monotonic()
                until = now + self._patience if until is None else until
                if now >= until:
                    raise
                time.sleep(min(delay, until - now))
                delay = min(2 * delay, LONGEST_DELAY)

    def _open_again(self) -> None:
        if self._opened is None:
            return
        try:
            self.session = self._exchange(self._opened)
        except RefusedError as error:
            self._disconnect()  # else the next request would find a connection without a session
            if error.code != "full":
                raise
            # Others were quicker, or the server has not noticed yet that the old connection is gone.
            raise UnreachableError(str(error)) from None
        self.reconnected += 1

    def _exchange(self, data: bytes) -> dict[str, Any]:
        assert self._connection is not None
        try:
            self._connection.send(data)
            answer = decode(self._connection.recv(timeout=self._timeout))
        except TimeoutError:
            raise UnreachableError(f"{self._url}: no answer within {self._timeout:g} s") from None
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd is not None else "connection lost"
            raise UnreachableError(f"{self._url}: {reason or 'closed by the server'}") from None
        except MessageError as error:
            self._disconnect()
            raise ClientError(f"{self._url}: the server's answer cannot be read: {error}") from None
        except BaseException:
            self._disconnect()  # interrupted between a request and its answer
            raise
        if answer["type"] == "error":
            code = str(answer.get("code"))
            if code == "internal":
                raise FailedError(f"{self._url}: {answer.get('message')}")
            raise RefusedError(str(answer.get("message")), code)
        return answer

    def _connect(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            opening = connect(
                self._url,
                additional_headers=headers,
                compression=None,
                max_size=self._max_size,
                open_timeout=min(self._timeout, 10.0),
                close_timeout=1.0,
                proxy=None,
            )
            self._connection = self._stack.enter_context(opening)
            self.hello = decode(self._connection.recv(timeout=self._timeout))
        except InvalidStatus as error:
            if error.response.status_code == 401:
                raise AuthenticationError(f"{self._url}: the server wants another token") from None
            body = error.response.body.decode(errors="replace").strip()
            raise UnreachableError(f"{self._url}: {body or error}") from None
        except InvalidURI as error:
            raise ClientError(f"{self._url}: no address of the form ws://host:port ({error})") from None
        except (OSError, InvalidHandshake, WebSocketException, MessageError) as error:
            self._disconnect()
            raise UnreachableError(f"{self._url}: no policy server answers ({error})") from None
        if self.hello.get("protocol") != PROTOCOL:
            self._disconnect()
            raise ClientError(
                f"{self._url}: the server speaks protocol {self.hello.get('protocol')}, this client {PROTOCOL}: "
                "install the client of the server's version"
            )

    def _disconnect(self) -> None:
        self._connection = None
        with contextlib.suppress(Exception):
            self._stack.close()


def _encode(message: Mapping[str, Any]) -> bytes:
    """The request. RefusedError: it holds what cannot be sent."""
    try:
        return encode(message)
    except MessageError as error:
        raise RefusedError(str(error), "mistake") from None
