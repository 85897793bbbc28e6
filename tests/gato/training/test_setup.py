"""A real run on eight fake devices takes the steps of one device: data, model, optimizer and shardings together."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from gato.training.config import MeshConfig, TrainConfig
from gato.training.setup import build

STEPS = 3
EIGHT_DEVICES = """
import pickle, sys
import jax, numpy as np
from gato.training.setup import build

setup = build(pickle.load(open(sys.argv[1], "rb")))
assert dict(setup.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
state = setup.initial_state()
batches, losses = iter(setup.loader), []
for _ in range(3):
    state, metrics = setup.train_step(state, setup.put(next(batches)))
    losses.append(float(metrics.sums.mean()))
split = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    if not leaf.sharding.is_fully_replicated
]
pickle.dump((losses, jax.tree.map(np.asarray, state.params), split), open(sys.argv[2], "wb"))
"""


def test_eight_devices_train_as_one(train_config: TrainConfig, tmp_path: Path) -> None:
    config = train_config.replace(batch_size=8)
    setup = build(config)
    state, batches = setup.initial_state(), iter(setup.loader)
    losses = []
    for _ in range(STEPS):
        state, metrics = setup.train_step(state, setup.put(next(batches)))
        losses.append(float(metrics.sums.mean()))
    (tmp_path / "config").write_bytes(pickle.dumps(dataclasses.replace(config, mesh=MeshConfig(2, 2, 2))))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES, tmp_path / "config", tmp_path / "result"],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, params, split = pickle.loads((tmp_path / "result").read_bytes())
    assert split, "the optimizer's moments lie in parts"
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, jax.tree.map(np.asarray, state.params)
    )
