"""How a server ends and comes back, and when it does not start at all."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from gato.client import Client, RefusedError, UnreachableError
from gato.launch import cli


def test_a_killed_server_is_found_again_with_the_prompt_and_sigterm_ends_it(run, start, token, observe, demonstrate):
    rng = np.random.default_rng(0)
    seen = [observe(rng) for _ in range(3)]
    first = start(run, "--port=0", "--temperature=0", "--sessions=2")
    client = Client(first.url, token)
    client.open("arm/reach", demonstrate(1))
    expected = [client.act(observation) for observation in seen]
    assert client.act(seen[2])["grip"].shape == ()
    first.end(signal.SIGKILL)
    second: list = []
    starting = threading.Thread(
        target=lambda: second.append(start(run, f"--port={first.port}", "--temperature=0", "--sessions=2"))
    )
    starting.start()
    # The same call goes on: behind the prompt as at the beginning of an episode.
    again = [client.act(observation) for observation in seen]
    starting.join()
    assert client.reconnected == 1
    assert all(np.array_equal(a[p], b[p]) for a, b in zip(again, expected, strict=True) for p in a)

    ended: list[int] = []
    ending = threading.Thread(target=lambda: ended.append(second[0].end(signal.SIGTERM)))
    # Every request has an answer or finds the server gone; none is left hanging.
    with Client(first.url, token, patience=0.0) as impatient, pytest.raises(UnreachableError):
        impatient.open("arm/push")
        ending.start()
        for _ in range(10_000):
            impatient.act(seen[0])
    ending.join()
    assert ended == [0]
    assert not any("Traceback" in line for line in second[0].lines)
    assert any("SIGTERM: answering what was asked" in line for line in second[0].lines)


@pytest.mark.slow
def test_a_silent_client_goes_and_no_token_is_warned_about(run, start, observe):
    server = start(run, "--port=0", "--idle=1s", token=None)
    assert any("warning: no token" in line for line in server.lines)
    with Client(server.url) as client:
        client.open("arm/reach", seed=3)
        time.sleep(2.5)
        assert server.health()["sessions"] == 0
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
    assert cli.main(["serve", f"--checkpoint={run}", f"--port={server.port}"]) == 2
    assert f"cannot listen at 127.0.0.1:{server.port}" in capsys.readouterr().err
