"""What one client and the server say to each other; the messages are maps, see `gato.client.messages`.

    hello: "protocol", "checkpoint_step", "recipe", "sources", "max_message"     (the server begins)
    open: "source", "prompt", "target", "seed"     -> opened: "source", "spec"
    act: "observation", "reward"                   -> action: "action", "step"
    reset                                          -> done
    close                                          -> done

Every request has one answer, in order. What cannot be done is answered error: "code", "message", and changes nothing.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from gato.client.messages import PROTOCOL, MessageError, decode
from gato.serving.batching import Batcher, LostError
from gato.serving.policy import Policy, Session, Step
from gato.serving.requests import OpenRequest, RequestError, read_act
from gato.tokenizers.errors import GatoError, printed, suggest

REQUESTS = ("open", "act", "reset", "close")
LONGEST_ANSWER = 2000  # characters of an error's message


class FullError(GatoError):
    """All sessions are taken."""


class Seats:
    """How many sessions there are, and may be. ``changed`` is told the number."""

    def __init__(self, most: int, changed: Callable[[int], None]) -> None:
        self.most, self.taken, self._changed = most, 0, changed

    def take(self) -> None:
        """Raises FullError."""
        if self.taken >= self.most:
            raise FullError(f"all {self.most} sessions of this server are taken; try again later")
        self.taken += 1
        self._changed(self.taken)

    def leave(self) -> None:
        self.taken -= 1
        self._changed(self.taken)


class Conversation:
    """One connection's session, if it has opened one."""

    def __init__(self, policy: Policy, batcher: Batcher, seats: Seats, say: Callable[[str], None]) -> None:
        self._policy, self._batcher, self._seats, self._say = policy, batcher, seats, say
        self._session: Session | None = None

    def hello(self, max_message: int) -> dict[str, Any]:
        """The server's first message."""
        meta = self._policy.meta
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "checkpoint_step": meta.step,
            "recipe": meta.recipe,
            "sources": [name for name, source in meta.sources.items() if source.spec.kind == "control"],
            "max_message": max_message,
        }

    async def answer(self, data: bytes | str) -> dict[str, Any]:
        """The answer to one frame; never raises."""
        try:
            message = decode(data)
            kind = message["type"]
            if kind not in REQUESTS:
                raise RequestError(f"type {kind[:40]!r} is no request; {suggest(kind[:40], REQUESTS)}")
            return await getattr(self, f"_{kind}")(message)
        except FullError as error:
            return _error("full", str(error))
        except (GatoError, MessageError) as error:
            return _error("mistake", printed(error))
        except LostError as error:
            return self._failure(error.__cause__ or error)
        except Exception as error:
            return self._failure(error)

    async def end(self) -> None:
        """Frees the session's row."""
        session, self._session = self._session, None
        if session is not None:
            await self._batcher.call(self._policy.close, session)
            self._seats.leave()

    async def _open(self, message: Mapping[str, Any]) -> dict[str, Any]:
        request = OpenRequest.read(message)
        # Long prompts are read, and demonstrations fetched from the disk, where nobody's acting waits for it.
        prompt = await asyncio.to_thread(self._policy.prompt, request)
        before = self._session
        if before is None:
            self._seats.take()
        try:
            self._session = await self._batcher.call(self._policy.open, request, prompt, before)
        except BaseException:
            if before is None:
                self._seats.leave()
            raise
        return {"type": "opened", "source": self._session.source, "spec": self._session.spec.to_json()}

    async def _act(self, message: Mapping[str, Any]) -> dict[str, Any]:
        session = self._opened("act")
        observation, reward = read_act(message, session.spec, self._policy.tokenizer, self._policy.meta.length)
        if reward is None and session.steps and self._policy.meta.layout.derived:
            raise RequestError(f"act: recipe {self._policy.meta.recipe!r} conditions on rewards; send the last one")
        action = await self._batcher.act(Step(session, observation, reward))
        return {"type": "action", "action": action, "step": session.steps}

    async def _reset(self, message: Mapping[str, Any]) -> dict[str, Any]:
        await self._batcher.call(self._policy.restart, self._opened("reset"))
        return {"type": "done"}

    async def _close(self, message: Mapping[str, Any]) -> dict[str, Any]:
        await self.end()
        return {"type": "done"}

    def _opened(self, request: str) -> Session:
        if self._session is None:
            raise RequestError(f"{request}: no session is open; send open first")
        return self._session

    def _failure(self, error: BaseException) -> dict[str, Any]:
        self._say("".join(traceback.format_exception(error)).rstrip())
        return _error("internal", "a failure of the server, which its log describes; the session is lost")


def _error(code: str, message: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": message[:LONGEST_ANSWER]}
