"""A process keeps few files open, however many shards and stores it reads."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import VECTORS, vectors_episode, write_store

from gato.data_pipelines import store_writer
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.open_files import OpenFiles
from gato.data_pipelines.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of 30 shards, one for each episode; the first return of an episode is its number."""
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 1)
    rng = np.random.default_rng(0)
    path = write_store(tmp_path / "s", "s", VECTORS, [vectors_episode(rng, k, 4) for k in range(30)])
    assert len(list(path.glob("*.array_record"))) == 30
    return path


def read_all(store: Store) -> None:
    for number in np.random.default_rng(1).permutation(30).tolist():
        assert store.episode(number).observations["clock"][0, 0] == number


def test_stores_share_a_limit(store, monkeypatch):
    monkeypatch.setattr(OpenFiles, "LIMIT", 5)
    stores = [Store(store) for _ in range(3)]
    for opened in stores:
        read_all(opened)
    assert len(OpenFiles._order) <= 5
    assert sum(len(opened._open._files) for opened in stores) <= 5
    read_all(stores[0])


def test_threads_read_while_files_are_closed(store, monkeypatch):
    monkeypatch.setattr(OpenFiles, "LIMIT", 2)
    opened = Store(store)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(read_all, opened) for _ in range(8)]:
            done.result()


def test_damage_is_still_found_when_a_file_is_opened_again(store, monkeypatch):
    monkeypatch.setattr(OpenFiles, "LIMIT", 1)
    opened = Store(store)
    opened.episode(3)
    opened.episode(4)
    opened.file_of(3).unlink()
    with pytest.raises(StoreError, match="data-00003"):
        opened.episode(3)


FEW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from gato.data_pipelines.store import Store
stores = [Store(sys.argv[1]) for _ in range(40)]
print(sum(len(store.episode(number)) for store in stores for number in range(30)))
"""


def test_a_system_with_a_low_limit(store):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", FEW, str(store)], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert done.stdout.strip() == str(40 * 30 * 4)
