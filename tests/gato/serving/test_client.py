"""What the client does with answers that a sound server seldom gives."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from websockets.sync.server import serve

from gato.client import Client, ClientError, FailedError, RefusedError
from gato.client.messages import PROTOCOL, decode, encode

HELLO = {"type": "hello", "protocol": PROTOCOL, "max_message": 1 << 20}
OPENED = {"type": "opened", "source": "arm"}
FAILED = {"type": "error", "code": "internal", "message": "a failure of the server"}
REFUSED = {"type": "error", "code": "mistake", "message": "no demonstration is there any more"}
ACTION = {"type": "action", "action": {"action": np.ones(1)}}


@contextlib.contextmanager
def scripted(*connections):
    """The address of a server that gives these answers, and the types of the requests that each connection sent."""
    waiting, asked = list(connections), []

    def converse(connection):
        answers, requests = waiting.pop(0), []
        asked.append(requests)
        connection.send(encode(HELLO))
        for answer in answers:
            requests.append(decode(connection.recv())["type"])
            connection.send(answer if isinstance(answer, bytes) else encode(answer))

    with serve(converse, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", asked
        server.shutdown()
        thread.join()


def test_a_failure_of_the_server_opens_the_session_again():
    with scripted([OPENED, FAILED], [OPENED, ACTION]) as (url, asked):
        with Client(url) as client:
            client.open("arm")
            assert client.act({"x": 0})["action"] == 1
            assert client.reconnected == 1
        assert asked == [["open", "act"], ["open", "act"]]


def test_what_the_server_fails_at_twice_is_not_sent_again():
    with scripted([OPENED, FAILED], [OPENED, FAILED], [OPENED, ACTION]) as (url, asked), Client(url) as client:
        client.open("arm")
        with pytest.raises(FailedError, match="a failure of the server"):
            client.act({"x": 0})
        assert len(asked) == 2
        assert client.act({"x": 1})["action"] == 1


def test_a_session_that_may_not_be_opened_again_is_tried_again_at_the_next_request():
    # The second refusal would answer a request that is sent without a session.
    with scripted([OPENED, FAILED], [REFUSED, REFUSED], [OPENED, ACTION]) as (url, asked):
        with Client(url) as client:
            client.open("arm", prompt="arm")
            with pytest.raises(RefusedError, match="there any more"):
                client.act({"x": 0})
            assert client.act({"x": 0})["action"] == 1
        assert asked == [["open", "act"], ["open"], ["open", "act"]]


def test_an_answer_that_cannot_be_read_is_an_error_of_the_client():
    with scripted([OPENED, b"\xc1"]) as (url, _), Client(url) as client:
        client.open("arm")
        with pytest.raises(ClientError, match="cannot be read: no msgpack"):
            client.act({"x": 0})


def test_what_cannot_be_sent_is_refused_and_the_session_goes_on():
    with scripted([OPENED, ACTION]) as (url, _), Client(url) as client:
        client.open("arm")
        with pytest.raises(RefusedError, match="dtype complex128"):
            client.act({"x": np.ones(1, complex)})
        assert client.act({"x": 0})["action"] == 1
        assert client.reconnected == 0
