"""A call that fails takes the rows of all who share it: their sessions begin again, and nobody else notices."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gato.client import Client
from gato.client.messages import decode, encode
from gato.inference import sampler
from gato.inference.agent import Agent
from gato.serving.limits import Limits
from gato.serving.policy import Policy
from gato.serving.server import INTERNAL_ERROR, Server

WAIT = 300  # seconds, for what is compiled on a busy machine


@contextlib.contextmanager
def serving(run, said):
    """A server of two sessions in a thread, whose batches wait for both, and its address."""
    ready: concurrent.futures.Future[tuple[Server, asyncio.AbstractEventLoop, int]] = concurrent.futures.Future()

    async def serve():
        policy = Policy(Agent.from_checkpoint(run), 2, run, temperature=0.0)
        server = Server(policy, Limits(sessions=2, patience=WAIT), None, said.append)
        loop = asyncio.get_running_loop()
        await server.run("127.0.0.1", 0, lambda port: ready.set_result((server, loop, port)))

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    server, loop, port = ready.result(WAIT)
    try:
        yield server, f"ws://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(server.drain)
        thread.join()


def test_sessions_begin_again_after_a_failure(run, observe, demonstrate, monkeypatch):
    rng, said, failing = np.random.default_rng(0), [], threading.Event()
    seen = [observe(rng) for _ in range(3)]
    sound = sampler.extend_and_act

    def act(*arguments):
        results = sound(*arguments)
        if failing.is_set():  # late, as where the memory ends: the cache is donated, and gone
            failing.clear()
            raise RuntimeError("no memory is left")
        return results

    monkeypatch.setattr(sampler, "extend_and_act", act)
    # A batch waits for all that hold a seat: one that acts before the other's seat is taken would be one ahead.
    seated, together = threading.Barrier(2), threading.Barrier(2, action=failing.set)

    def play(url, number):
        with Client(url, timeout=WAIT, patience=WAIT) as client:
            client.open("arm/reach", demonstrate(number))
            seated.wait(WAIT)
            before = [client.act(observation) for observation in seen]
            together.wait(WAIT)
            again = [client.act(observation) for observation in seen]
            return before, again, client.reconnected

    with serving(run, said) as (server, url):
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            played = list(threads.map(play, [url] * 2, range(2)))
        for before, again, reconnected in played:
            assert reconnected == 1
            assert all(np.array_equal(a[p], b[p]) for a, b in zip(again, before, strict=True) for p in a)
        assert str(played[0]) != str(played[1])
        assert said
        assert all("RuntimeError: no memory is left" in line for line in said)

        failing.set()
        with connect(url, open_timeout=WAIT) as link:
            link.recv()
            answers = []
            for request in ({"type": "open", "source": "arm/reach"}, {"type": "act", "observation": seen[0]}):
                link.send(encode(request))
                answers.append(decode(link.recv()))
            assert [answers[0]["type"], answers[1].get("code")] == ["opened", "internal"]
            with pytest.raises(ConnectionClosed) as closed:
                link.recv()
            assert closed.value.rcvd.code == INTERNAL_ERROR
        until = time.monotonic() + WAIT
        while server.health()["sessions"]:
            assert time.monotonic() < until, "a seat is taken for ever"
            time.sleep(0.01)
