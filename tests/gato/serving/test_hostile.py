"""A thousand malformed and hostile messages: each is answered or its connection closed, and a good session goes on."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import sys
import threading
from pathlib import Path

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gato.client import Client
from gato.client.messages import ARRAY, decode, encode

MESSAGES = 1200


def array(dtype, shape, content):
    return msgpack.ExtType(ARRAY, msgpack.packb([dtype, shape, content]))


def good_act(rng):
    return {"type": "act", "observation": {"hand": rng.normal(size=3), "cell": rng.integers(9, size=2)}}


def truncated(rng):
    data = encode(good_act(rng))
    return data[: rng.integers(len(data))]


def flipped(rng):
    data = bytearray(encode(good_act(rng)))
    for place in rng.integers(len(data), size=rng.integers(1, 6)):
        data[place] ^= 1 << rng.integers(8)
    return bytes(data)


def huge(rng):
    """Declares far more than there is: of an array, of a string, of a list, of a map."""
    shape = [[1 << 40], [1 << 31, 1 << 31, 1 << 31], [-1], [2.0], [True], [1] * 99, [1 << 63]][rng.integers(7)]
    choices = [
        msgpack.packb({"type": "act", "observation": {"hand": array("<f8", shape, b"x" * 24)}}),
        b"\x81\xa4type\xdb\xff\xff\xff\xffab",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 2000,
    ]
    return choices[rng.integers(len(choices))]


def wrong_dtype(rng):
    dtype = ["|O", "<c16", ">f8", "<M8[ns]", "|V8", "<U4", "f8", "", 7, None, "<f8,<f8"][rng.integers(11)]
    return msgpack.packb({"type": "act", "observation": {"hand": array(dtype, [3], b"\0" * 24)}})


def wrong_value(rng):
    """The right leaves with what does not belong there."""
    odd = [
        *(None, True, 1 << 63, -5, 1e308, "text", b"bytes", [], {}, [[1], [2, 3]], [None], ["a"], {"a": {"b": {}}}),
        *(np.full(3, np.nan), np.full(3, np.inf), np.zeros((3, 0)), np.zeros(()), np.zeros((1,) * 8), np.full(2, -1)),
        *(np.full(2, 2**63, np.uint64), np.array([True, False]), np.full(2, np.nan), np.full((2,), 9)),
        *(
            "long " * 20_000,
            list(range(1000)),
            msgpack.Timestamp(1, 2),
            msgpack.ExtType(5, b"x"),
            msgpack.ExtType(ARRAY, b""),
            msgpack.ExtType(ARRAY, b"\xc0"),
        ),
    ]
    message = good_act(rng)
    message["observation"][["hand", "cell"][rng.integers(2)]] = odd[rng.integers(len(odd))]
    if rng.integers(3) == 0:
        message["reward"] = odd[rng.integers(len(odd))]
    return pack(message)


def wrong_leaves(rng):
    message = good_act(rng)
    given = message["observation"]
    del given[["hand", "cell"][rng.integers(2)]]
    name = ["Hand", "hand ", "", "a.b", "x" * 5000, "\0", "__class__", 3, b"hand"][rng.integers(9)]
    given[name] = np.zeros(3)
    return pack(message)


def wrong_message(rng):
    kinds = [
        *(None, 1, "act", [], [{"type": "act"}], {}, {"type": None}, {"type": 5}, {"type": "shutdown"}),
        *({"type": "__init__"}, {"type": "act"}, {"type": "act", "observation": None}, {"type": "x" * 10_000}),
        *({"type": "open"}, {"type": "open", "source": 3}, {"type": "open", "source": "arm/reach", "seed": -1}),
        *({"type": "open", "source": "arm/reach", "seed": 1.5}, {"type": "open", "source": "../../etc/passwd"}),
        *({"type": "open", "source": "arm/reach", "target": "much"}, {"type": "open", "source": "text/plain"}),
        *({"type": "open", "source": "arm/reach", "prompt": 5}, {"type": "open", "source": "arm/reach", "prompt": {}}),
        *({"type": "open", "source": "arm/reach", "prompt": "../secret"}, {"type": "error", "message": "hello"}),
    ]
    return pack(kinds[rng.integers(len(kinds))])


def wrong_prompt(rng):
    steps = int(rng.integers(4))
    odd = [[], "go", {"a": 1}, np.zeros((2, 3)), np.full((steps, 3), np.nan), 5, ["a"] * steps, [b"jpeg"] * steps, None]
    leaves = [np.zeros((steps, 3)), np.zeros((steps, 2), np.int64), np.zeros((steps, 2)), np.zeros(steps, np.int64)]
    leaves[rng.integers(4)] = odd[rng.integers(len(odd))]
    hand, cell, move, grip = leaves
    prompt = {"observations": {"hand": hand, "cell": cell}, "actions": {"move": move, "grip": grip}}
    if rng.integers(2):
        prompt["rewards"] = [odd[rng.integers(len(odd))], np.zeros(steps), np.zeros((steps, 2))][rng.integers(3)]
    return pack({"type": "open", "source": "arm/reach", "prompt": prompt})


def text(rng):
    return ["", "hello", '{"type": "act"}', "\N{SNOWMAN}" * 500, "GET /health HTTP/1.1\r\n\r\n"][rng.integers(5)]


def noise(rng):
    return rng.bytes(int(rng.integers(400)))


def oversize(rng):
    return b"\xc4" + rng.bytes(1 << 20)


def pack(message):
    """As a client would that checks nothing."""

    def plain(value):
        return array(value.dtype.str, list(value.shape), value.tobytes())

    return msgpack.packb(message, default=plain)


KINDS = (*(truncated, flipped, huge, wrong_dtype, wrong_value, wrong_leaves, wrong_message, wrong_prompt, text, noise),)


def test_the_server_survives_and_a_good_session_goes_on(server, token, observe):
    rng, headers = np.random.default_rng(5), {"Authorization": f"Bearer {token}"}
    seen = [observe(np.random.default_rng(1)) for _ in range(6)]
    ending = threading.Event()

    def go_on():
        """How many rounds were played; each is like the first."""
        with Client(server.url, token, patience=0.0) as client:
            client.open("arm/reach")
            expected = [client.act(observation) for observation in seen]
            for rounds in itertools.count():
                if ending.is_set():
                    return rounds, client.reconnected
                client.reset()
                again = [client.act(observation) for observation in seen]
                assert all(np.array_equal(a[p], b[p]) for a, b in zip(again, expected, strict=True) for p in a)
        raise AssertionError

    threads = concurrent.futures.ThreadPoolExecutor(1)
    good = threads.submit(go_on)
    answers: collections.Counter[str] = collections.Counter()
    sent = 0
    opened = encode({"type": "open", "source": "arm/reach"})
    while sent < MESSAGES:
        assert not good.done(), good.exception()
        with connect(server.url, additional_headers=headers, compression=None) as connection:
            assert decode(connection.recv())["type"] == "hello"
            if rng.integers(3):
                connection.send(opened)
                assert decode(connection.recv())["type"] == "opened"
            try:
                for _ in range(60):
                    kind = oversize if sent % 100 == 99 else KINDS[rng.integers(len(KINDS))]
                    sent += 1
                    connection.send(kind(rng))
                    answer = decode(connection.recv())
                    answers[answer.get("code", answer["type"])] += 1
                    if kind not in (flipped, wrong_value, wrong_prompt, wrong_message):
                        assert answer["type"] == "error", kind
            except ConnectionClosed as closed:
                answers[f"{kind.__name__} {closed.rcvd and closed.rcvd.code}"] += 1
    ending.set()
    rounds, reconnected = good.result(120)
    assert rounds > 5
    assert reconnected == 0
    assert answers["internal"] == 0, server.lines
    assert answers["oversize 1009"] == MESSAGES // 100
    assert answers["mistake"] > MESSAGES * 0.8
    assert sum(answers.values()) == MESSAGES
    assert not any("Traceback" in line for line in server.lines)


def memory(process):
    """The most bytes that the process has had."""
    lines = (Path("/proc") / str(process.pid) / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of another process is read from /proc")
def test_small_messages_do_not_become_large(server, token):
    leaves = {str(i): 0 for i in range(4000)}
    messages = (
        b"\x82\xa4type\xa3act\xabobservation\xdd\x00\x0f\xff\x00" + b"\x80" * 0xFFF00,  # a million maps
        pack({"type": "act", "observation": {"n" * 100_000: leaves}}),  # four thousand long names
    )
    before = memory(server.process)
    with connect(server.url, additional_headers={"Authorization": f"Bearer {token}"}, compression=None) as connection:
        connection.recv()
        connection.send(encode({"type": "open", "source": "arm/reach"}))
        assert decode(connection.recv())["type"] == "opened"
        for message in messages:
            connection.send(message)
            assert decode(connection.recv())["code"] == "mistake"
    assert memory(server.process) - before < 32 << 20


def test_bytes_that_are_no_websocket_are_no_news(server):
    import socket

    rng = np.random.default_rng(6)
    for size in (0, 1, 100, 20_000):
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(rng.bytes(size))
    assert server.health()["status"] == "ok"
    assert not any("Traceback" in line for line in server.lines)
