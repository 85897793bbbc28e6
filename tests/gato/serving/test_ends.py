"""How a server ends and comes back, and when it does not start at all."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gato.client import Client, RefusedError, UnreachableError
from gato.client.messages import decode, encode
from gato.launch import cli
from gato.serving.server import LAST_SECONDS
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta

CLIENTS = 8
WAIT = 300  # seconds, for servers to start and to compile on a busy machine


def test_a_killed_server_is_found_again_with_the_prompts_and_sigterm_ends_it(run, start, token, observe, demonstrate):
    rng = np.random.default_rng(0)
    seen = [observe(rng) for _ in range(3)]
    options = ("--temperature=0", f"--sessions={CLIENTS}")
    first = start(run, "--port=0", *options)
    killed, acted = threading.Event(), threading.Barrier(CLIENTS + 1)

    def play(number):
        """What is done before and after the server is killed. Observations are the same for all, prompts are not."""
        with Client(first.url, token, timeout=WAIT, patience=WAIT) as client:
            client.open("arm/reach" if number % 2 else "arm/push", demonstrate(number))
            before = [client.act(observation) for observation in seen]
            client.act(seen[2])
            acted.wait(WAIT)
            killed.wait(WAIT)
            # The same call goes on: behind the prompt as at the beginning of an episode.
            again = [client.act(observation) for observation in seen]
            return before, again, client.reconnected

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        playing = [threads.submit(play, number) for number in range(CLIENTS)]
        acted.wait(WAIT)
        first.end(signal.SIGKILL)
        killed.set()
        second = start(run, f"--port={first.port}", *options)
        played = [each.result(WAIT) for each in playing]
    for before, again, reconnected in played:
        assert reconnected == 1
        assert all(np.array_equal(a[p], b[p]) for a, b in zip(again, before, strict=True) for p in a)
    # Nobody's memory is another's: each prompt is seen in what is done behind it.
    assert len({str(again) for _, again, _ in played}) == CLIENTS

    ended: list[int] = []
    ending = threading.Thread(target=lambda: ended.append(second.end(signal.SIGTERM)))
    # Every request has an answer or finds the server gone; none is left hanging.
    with Client(first.url, token, patience=0.0) as impatient, pytest.raises(UnreachableError):
        impatient.open("arm/push")
        ending.start()
        for _ in range(10_000):
            impatient.act(seen[0])
    ending.join()
    assert ended == [0]
    assert not any("Traceback" in line for line in second.lines)
    assert any("SIGTERM: answering what was asked" in line for line in second.lines)


@contextlib.contextmanager
def ask_without_reading(server, token):
    """A client that has a session, asks and asks, and reads no answer, until the server waits for it; its thread."""
    headers = {"Authorization": f"Bearer {token}"}
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", server.port))
    # The answer names the leaves that were given: more than a kilobyte.
    question = encode({"type": "act", "observation": {"\N{SNOWMAN}" * 190 + str(i): 0 for i in range(4)}})
    sent = [0]

    def ask():
        with contextlib.suppress(ConnectionClosed):
            while True:
                connection.send(question)
                sent[0] += 1

    with connect(server.url, sock=link, additional_headers=headers, max_queue=1) as connection:
        connection.recv()
        connection.send(encode({"type": "open", "source": "arm/reach"}))
        assert decode(connection.recv())["type"] == "opened"
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        before = -1
        while sent[0] > before:
            before = sent[0]
            time.sleep(0.5)
        assert asking.is_alive()
        try:
            yield asking
        finally:
            with contextlib.suppress(OSError):  # the server has cut it off
                link.shutdown(socket.SHUT_RDWR)


def test_a_client_that_reads_nothing_loses_its_seat_and_does_not_hold_up_the_end(run, start, token):
    server = start(run, "--port=0", "--sessions=1")
    with ask_without_reading(server, token) as asking:
        assert server.health()["sessions"] == 1
        asking.join(WAIT)
        assert not asking.is_alive()
    server.wait_for_sessions(0)
    with ask_without_reading(server, token):
        began = time.monotonic()
        assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < LAST_SECONDS, "it waited for the client"
    assert not any("Traceback" in line for line in server.lines)


def test_the_second_ctrl_c_ends_it_at_once(run, start, token):
    server = start(run, "--port=0", "--sessions=1")
    with ask_without_reading(server, token):  # it takes seconds to give this client up
        server.process.send_signal(signal.SIGINT)
        while not any("once more: at once" in line for line in server.lines):
            time.sleep(0.05)
        # By the signal, not by an exception, which would wait for what is being compiled.
        assert server.end(signal.SIGINT) == -signal.SIGINT


@pytest.mark.slow
def test_a_silent_client_goes_and_no_token_is_warned_about(run, start, observe):
    server = start(run, "--port=0", "--idle=1s", token=None)
    assert any("warning: no token" in line for line in server.lines)
    with Client(server.url) as client:
        client.open("arm/reach", seed=3)
        server.wait_for_sessions(0)
        client.act(observe(np.random.default_rng(0)))
        assert client.reconnected == 1
        with pytest.raises(RefusedError, match="'cell' is missing"):
            client.act({"hand": np.zeros(3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host=0.0.0.0"], "--host 0.0.0.0: other machines could connect, so a token is needed"),
        (["--host=::"], "a token is needed"),
        (["--host=example.org"], "a token is needed"),
        (["--token-file=short"], "short: a token has at least 16"),
        (["--token-file=nowhere"], "nowhere: cannot read the token: No such file"),
        ([], "no such directory; give a run directory"),
    ],
)
def test_a_server_that_cannot_start_says_why(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATO_TOKEN", raising=False)
    (tmp_path / "short").write_text("abc\n")
    assert cli.main(["serve", "--checkpoint=run", *options]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert len(error) <= 2


def test_a_prompt_that_the_memory_cannot_hold_is_refused_at_the_start(run, capsys, monkeypatch):
    monkeypatch.setenv("GATO_TOKEN", "0123456789abcdef")
    assert cli.main(["serve", f"--checkpoint={run}", "--port=0", "--memory=memory", "--prompt-tokens=129"]) == 2
    assert "prompt_tokens is 129, but memory='memory' takes at most 128" in capsys.readouterr().err


def test_the_address_in_use_is_said(run, server, capsys, monkeypatch):
    monkeypatch.setenv("GATO_TOKEN", "0123456789abcdef")
    assert cli.main(["serve", f"--checkpoint={run}", f"--port={server.port}", "--warm", "arm/reach"]) == 2
    error = capsys.readouterr().err
    assert f"cannot listen at 127.0.0.1:{server.port}" in error
    assert "try another --port" in error
    assert "compiling" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--warm", "arm/reach", "arm/raech"], "did you mean 'arm/reach'"),
        (["--warm", "arm/reach", "text/plain"], "--warm text/plain: has no actions"),
        (["--warm", "arm/reach", "--host=192.0.2.1"], "try another --host"),  # no machine has this address
        (["--warm", "arm/reach", f"--host={'x' * 70}"], "try another --host"),
        (["--warm", "arm/reach", "--port=65536"], "try another --port"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_compiled(run, options, message, capsys, monkeypatch):
    monkeypatch.setenv("GATO_TOKEN", "0123456789abcdef")
    assert cli.main(["serve", f"--checkpoint={run}", *options]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert "reset(" not in error  # nobody who serves or connects has it


def test_a_network_that_never_acted_is_not_served(save_untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GATO_TOKEN", "0123456789abcdef")
    text = SourceMeta(EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document"))
    run = save_untrained(tmp_path / "run", {"text/plain": text})
    assert cli.main(["serve", f"--checkpoint={run}", "--port=0"]) == 2
    assert "none of this checkpoint's 1 source has actions" in capsys.readouterr().err
