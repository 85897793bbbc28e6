"""A checkpoint of a tiny untrained network on disk, and `gato serve` of it as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta

ARM = EpisodeSpec.of(
    {"hand": LeafSpec("continuous", (3,)), "cell": LeafSpec("discrete", (2,), values=9)},
    {"move": LeafSpec("continuous", (2,), low=-2.0, high=2.0), "grip": LeafSpec("discrete", values=3)},
)
READER = EpisodeSpec.of(
    {"image": LeafSpec("image", (16, 16, 3)), "mission": LeafSpec("text")}, LeafSpec("discrete", values=5)
)
PLAIN = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
TOKEN = "a token of the tests, 0123456789".replace(" ", "-").replace(",", "")


def demonstration(seed: int) -> dict[str, Any]:
    """The leaves of a demonstration of the arm, of five timesteps."""
    rng = np.random.default_rng(seed)
    return {
        "observations": {"hand": rng.normal(size=(5, 3)), "cell": rng.integers(9, size=(5, 2))},
        "actions": {"move": rng.uniform(-1, 1, (5, 2)), "grip": rng.integers(3, size=5)},
    }


class Process:
    """A running `gato serve`.

    Attributes:
      url: of its sessions. lines: what it wrote on stderr so far.
    """

    def __init__(self, run: Path, *options: str, token: str | None = TOKEN) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment.pop("GATO_TOKEN", None)
        if token is not None:
            environment["GATO_TOKEN"] = token
        command = [sys.executable, "-m", "gato.launch.cli", "serve", f"--checkpoint={run}", *options]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"at (ws://(\S+):(\d+)),", line)
        assert found, (line, self.lines)
        self.url, self.port = found[1], int(found[3])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=120) as answer:
            assert answer.headers["Content-Type"] == "application/json"
            return json.load(answer)

    def wait_for_sessions(self, count: int) -> None:
        """Until so many are open: that a client has gone is noticed a moment later."""
        while self.health()["sessions"] != count:
            time.sleep(0.05)

    def end(self, number: int = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(120)


@pytest.fixture(scope="session")
def run(save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with demonstrations of one task."""
    folder = tmp_path_factory.mktemp("run")
    with StoreWriter(folder / "data", "arm/reach", ARM, {"task": "arm/reach"}) as writer:
        for seed in range(4):
            leaves = demonstration(seed)
            about = {"episode_id": str(seed), "success": True}
            writer.write(Episode(leaves["observations"], leaves["actions"], np.zeros(5, np.float32), metadata=about))
    sources = {
        "arm/reach": SourceMeta(ARM, "arm/reach", 4, 2),
        "arm/push": SourceMeta(ARM, "arm/push", 4, 2),
        "room/read": SourceMeta(READER, "room/read", 1, 2),
        "text/plain": SourceMeta(PLAIN),
    }
    data = SourceConfig(folder / "data", prompt_timesteps=2, held_out_episodes=2)
    # Larger weights than at the start of training, so that what is remembered decides what is done.
    return save_untrained(folder, sources, [data], step=7, scale=3.0)


@pytest.fixture(scope="session")
def large_server(run: Path) -> Iterator[Process]:
    process = Process(run, "--port=0", "--sessions=64", "--temperature=0", "--max-message=1")
    yield process
    process.end()


@pytest.fixture
def server(large_server: Process) -> Process:
    """64 sessions, greedy, with `TOKEN`; none is open."""
    large_server.wait_for_sessions(0)
    return large_server


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., Process]]:
    """Starts further servers, which end with the tests."""
    started: list[Process] = []

    def begin(*arguments: Any, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield begin
    for process in started:
        process.end()


@pytest.fixture(scope="session")
def token() -> str:
    return TOKEN


@pytest.fixture(scope="session")
def observe() -> Callable[[np.random.Generator], dict[str, Any]]:
    """An observation of the arm."""
    return lambda rng: {"hand": rng.normal(size=3), "cell": rng.integers(9, size=2)}


@pytest.fixture(scope="session")
def demonstrate() -> Callable[[int], dict[str, Any]]:
    return demonstration
