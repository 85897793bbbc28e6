"""A server as a process, clients in threads and processes: nobody sees or disturbs another's session."""

from __future__ import annotations

import concurrent.futures
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gato.client import AuthenticationError, Client, RefusedError
from gato.client.messages import encode
from gato.data_pipelines.episode import Episode
from gato.evaluation.demonstrations import open_demonstrations
from gato.inference.agent import Agent

ROOT = Path(__file__).resolve().parents[3]
SESSIONS, STEPS = 64, 4


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)


def inputs(number, observe, demonstrate):
    """Prompt and observations of one session; every third has no prompt."""
    rng = np.random.default_rng(number)
    return demonstrate(number) if number % 3 else None, [observe(rng) for _ in range(STEPS)]


def test_sessions_at_once_are_sessions_alone(server, token, run, observe, demonstrate):
    together = threading.Barrier(SESSIONS)

    def play(number):
        prompt, observations = inputs(number, observe, demonstrate)
        with Client(server.url, token) as client:
            client.open("arm/reach" if number % 2 else "arm/push", prompt)
            together.wait(300)
            assert server.health()["sessions"] == SESSIONS
            actions = [client.act(observation) for observation in observations]
            assert server.health()["steps_per_second"] > 0
            return actions

    with concurrent.futures.ThreadPoolExecutor(SESSIONS) as threads:
        played = list(threads.map(play, range(SESSIONS)))
    agent = Agent.from_checkpoint(run)
    agent.reset("arm/reach", batch=1, temperature=0.0)
    forgetful = 0
    for number in range(SESSIONS):
        prompt, observations = inputs(number, observe, demonstrate)
        episode = None
        if prompt is not None:
            episode = Episode(prompt["observations"], prompt["actions"], np.zeros(5, np.float32))
        agent.begin(0, prompt=episode)
        alone = [agent.act([observation])[0] for observation in observations]
        assert all(same(one, other) for one, other in zip(played[number], alone, strict=True)), number
        agent.begin(0)
        forgetful += same(agent.act([observations[-1]])[0], alone[-1])
    assert forgetful < SESSIONS // 4  # else nothing was shown above
    server.wait_for_sessions(0)
    assert server.health()["steps"] >= SESSIONS * STEPS


def test_an_episode_begins_anew_behind_the_same_prompt(server, token, observe, demonstrate):
    prompt, observations = inputs(1, observe, demonstrate)
    with Client(server.url, token) as client:
        client.open("arm/reach", prompt)
        assert client.session["source"] == "arm/reach"
        first = [client.act(observation) for observation in observations]
        client.reset()
        assert all(same(client.act(o), action) for o, action in zip(observations, first, strict=True))
        client.open("arm/reach")
        assert not same(client.act(observations[-1]), first[-1])


def test_a_prompt_by_name_is_a_held_out_demonstration_of_the_run(server, run, token, observe):
    held_out = open_demonstrations(run)["arm/reach"].prompts(1)[0]
    leaves = {"observations": dict(held_out.observations), "actions": dict(held_out.actions)}
    observations = [observe(np.random.default_rng(8)) for _ in range(3)]
    played = []
    with Client(server.url, token) as client:
        for source, prompt in (("arm/push", "arm/reach"), ("arm/push", leaves), ("arm/push", None)):
            client.open(source, prompt)
            played.append([client.act(observation) for observation in observations])
    assert all(same(one, other) for one, other in zip(*played[:2], strict=True))
    assert not all(same(one, other) for one, other in zip(*played[1:], strict=True))


def test_either_end_of_a_demonstration_can_be_shown(run, start, token, observe, demonstrate):
    """Of five timesteps two are shown, as in training."""
    prompt, observation = demonstrate(0), observe(np.random.default_rng(9))
    server, played = start(run, "--port=0", "--sessions=1", "--temperature=0", "--prompt=beginning"), []
    with Client(server.url, token) as client:
        for part in (slice(None), slice(2), slice(-2, None)):
            shown = {group: {leaf: values[part] for leaf, values in prompt[group].items()} for group in prompt}
            client.open("arm/reach", shown)
            played.append(client.act(observation))
    assert same(played[0], played[1])
    assert not same(played[0], played[2])


def test_another_embodiment_beside_it(server, token):
    with Client(server.url, token) as client:
        client.open("room/read")
        picture = np.zeros((16, 16, 3), np.uint8)
        with pytest.raises(RefusedError, match="a text of 70,000 characters"):
            client.act({"image": picture, "mission": "x" * 70_000})
        with pytest.raises(RefusedError, match=r"\d+ tokens"):
            client.act({"image": picture, "mission": "red ball " * 200})
        for mission in ("go", "", "open the purple door and then go to the red ball behind you " * 2):
            assert 0 <= client.act({"image": picture, "mission": mission})["action"] < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hand": np.zeros(4)}, r"'hand': shape \(4,\), but the spec says \(3,\)"),
        ({"hand": np.array([0, np.nan, 0])}, "hand.*NaN"),
        ({"hand": "left"}, "hand.*array of numbers"),
        ({"cell": np.array([0.0, 1.0])}, "cell.*integers"),
        ({"cell": np.array([0, 9])}, "cell.*outside the declared 0..8"),
        ({"elbow": np.zeros(1)}, "'elbow' is not in the spec, which has cell, hand"),
        ({"hand": None}, "hand"),
    ],
)
def test_a_wrong_observation_is_answered_and_changes_nothing(server, token, observe, change, message):
    rng = np.random.default_rng(0)
    seen = [observe(rng) for _ in range(3)]
    with Client(server.url, token) as client:
        client.open("arm/reach")
        expected = [client.act(observation) for observation in seen]
        client.reset()
        assert same(client.act(seen[0]), expected[0])
        with pytest.raises(RefusedError, match=message) as refused:
            client.act({**seen[1], **change})
        assert refused.value.code == "mistake"
        assert [same(client.act(o), a) for o, a in zip(seen[1:], expected[1:], strict=True)] == [True, True]


def test_what_cannot_be_opened_is_said(server, token, demonstrate):
    prompt = demonstrate(0)
    short = {"observations": {**prompt["observations"], "hand": np.zeros((4, 3))}, "actions": prompt["actions"]}
    lost = {"observations": {"hand": np.zeros((5, 3))}, "actions": prompt["actions"]}
    with Client(server.url, token) as client:
        with pytest.raises(RefusedError, match="act: no session is open"):
            client.act({})
        for source, given, message in (
            ("arm/raech", None, "did you mean 'arm/reach'"),
            ("text/plain", None, "no actions"),
            ("arm/reach", short, "4"),
            ("arm/reach", lost, "cell missing"),
            ("arm/reach", {"steps": 3}, "unknown field 'steps'"),
            ("arm/reach", "arm/push", "no demonstration of 'arm/push'; send one"),
            ("arm/reach", "room/read", "demonstrations of 'room/read' have other leaves"),
        ):
            with pytest.raises(RefusedError, match=message):
                client.open(source, given)
        with pytest.raises(RefusedError, match="bytes, the server takes 1,048,576"):
            client.open("arm/reach", {"observations": {"hand": np.zeros((50_000, 3))}, "actions": {}})
        assert server.health()["sessions"] == 0
        client.open("arm/reach", prompt)
        assert server.health()["sessions"] == 1


def test_a_refused_open_leaves_the_session_as_it_is(server, token, observe, demonstrate):
    prompt, observations = inputs(1, observe, demonstrate)
    wrong = {"observations": prompt["observations"], "actions": {}}
    with Client(server.url, token) as client:
        client.open("arm/reach", prompt)
        expected = [client.act(observation) for observation in observations]
        client.reset()
        for observation, action, (source, given) in zip(
            observations,
            expected,
            (("arm/raech", None), ("arm/push", wrong), ("text/plain", None), ("arm/push", "no")),
            strict=True,
        ):
            with pytest.raises(RefusedError):
                client.open(source, given)
            assert same(client.act(observation), action)
            assert server.health()["sessions"] == 1
        # Nor does the client forget it: where the connection breaks, it is what is opened again.
        client._connection.socket.shutdown(socket.SHUT_RDWR)
        assert same(client.act(observations[0]), expected[0])
        assert client.reconnected == 1
        # And where it breaks while the server refuses.
        client._connection.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(RefusedError):
            client.open("arm/raech")
        assert same(client.act(observations[0]), expected[0])
        assert client.reconnected == 2
        client.open("arm/push")
        assert client.session["source"] == "arm/push"
        assert server.health()["sessions"] == 1


def test_strangers_are_refused(server, token):
    for wrong in (None, "x" * len(token), token + "x", ""):
        with pytest.raises(AuthenticationError, match="another token"):
            Client(server.url, wrong)
    headers = {"Authorization": f"Bearer {token}"}
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(server.url, additional_headers=headers, origin="http://a.b"),
    ):
        pass
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=120)


def test_no_more_sessions_than_allowed(run, server, token):
    clients = [Client(server.url, token) for _ in range(SESSIONS + 1)]
    try:
        for client in clients[:-1]:
            client.open("arm/reach")
        with pytest.raises(RefusedError, match="all 64 sessions") as refused:
            clients[-1].open("arm/reach")
        assert refused.value.code == "full"
        clients[0].open("arm/push")  # in the place of its own
        clients[0].close()
        server.wait_for_sessions(SESSIONS - 1)
        clients[-1].open("arm/reach")
    finally:
        for client in clients:
            client.close()


ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "flax", "gato", "tokenizers", "optax", "PIL"):
            raise ImportError(name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, {path!r})
import numpy as np
from gato_client import Client
client = Client({url!r}, {token!r})
client.open("arm/reach")
print(sorted(client.act({{"hand": np.zeros(3), "cell": np.zeros(2, np.int64)}})), "jax" in sys.modules, flush=True)
sys.stdin.read()
"""


def test_the_client_needs_neither_jax_nor_the_rest_and_may_disappear(server, token):
    program = ALONE.format(path=str(ROOT / "client"), url=server.url, token=token)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "['grip', 'move'] False\n"
    assert server.health()["sessions"] == 1
    process.kill()
    process.wait()
    server.wait_for_sessions(0)


def test_a_client_that_breaks_off_frees_its_session(server, token, observe):
    rng = np.random.default_rng(0)
    client = Client(server.url, token)
    client.open("arm/reach")
    assert server.health()["sessions"] == 1
    link = client._connection
    link.send(encode({"type": "act", "observation": observe(rng), "reward": None}))
    # Reset instead of closed: what a pulled plug looks like once the network notices.
    link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.socket.shutdown(socket.SHUT_RDWR)
    server.wait_for_sessions(0)
    client.close()
