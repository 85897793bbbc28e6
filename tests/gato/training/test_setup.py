"""A real run on eight fake devices takes the steps of one device: data, model, optimizer and shardings together."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import start_training, without_timings

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.store import Store
from gato.training import setup as training_setup
from gato.training.checkpoint import load_for_inference, saved_steps
from gato.training.config import MeshConfig, TrainConfig
from gato.training.cost import compiled_memory
from gato.training.setup import build
from gato.training.trainer import train

STEPS = 3
MESHES = (MeshConfig(8, 1, 1), MeshConfig(1, 8, 1), MeshConfig(2, 2, 2))
EIGHT_DEVICES = """
import pickle, sys
import jax, numpy as np
from gato.training.setup import build

results = []
for config in pickle.load(open(sys.argv[1], "rb")):
    setup = build(config)
    assert tuple(setup.mesh.shape.values()) == (config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    state = setup.initial_state()
    batches, losses = iter(setup.loader), []
    for _ in range(3):
        state, metrics = setup.train_step(state, setup.put(next(batches)))
        losses.append(float(metrics.sums.mean()))
    split = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
    results.append((losses, jax.tree.map(np.asarray, state.params), split))
pickle.dump(results, open(sys.argv[2], "wb"))
"""


@pytest.mark.parametrize(("recipe", "whole"), [("gato", False), ("return_conditioned", True)])
def test_episodes_are_read_whole_only_for_a_recipe_that_derives_something(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, recipe: str, whole: bool
) -> None:
    """A window of a long game must not cost its thousand frames."""
    asked: list[bool] = []
    read = Store.episode

    def episode(self: Store, index: int, start: int = 0, stop: int | None = None) -> Episode:
        length = int(self.lengths[index])
        asked.append((0, length) == (start, length if stop is None else stop))
        return read(self, index, start, stop)

    monkeypatch.setattr(training_setup, "Loader", functools.partial(Loader, cache_bytes=0))
    sources = tuple(
        dataclasses.replace(source, window_timesteps=1)
        for source in train_config.sources
        if Store(source.path).spec.kind == "control"
    )
    setup = build(train_config.replace(recipe=recipe, sources=sources, loader_threads=1, validation_every=0))
    monkeypatch.setattr(Store, "episode", episode)
    setup.loader.batch(0)
    assert asked
    assert any(asked) == whole


def test_eight_devices_train_as_one(train_config: TrainConfig, tmp_path: Path) -> None:
    config = train_config.replace(batch_size=8)
    setup = build(config)
    state, batches = setup.initial_state(), iter(setup.loader)
    losses = []
    for _ in range(STEPS):
        state, metrics = setup.train_step(state, setup.put(next(batches)))
        losses.append(float(metrics.sums.mean()))
    (tmp_path / "config").write_bytes(pickle.dumps([config.replace(mesh=mesh) for mesh in MESHES]))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES, tmp_path / "config", tmp_path / "result"],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = jax.tree.map(np.asarray, state.params)
    results = pickle.loads((tmp_path / "result").read_bytes())
    for mesh, (found, params, split) in zip(MESHES, results, strict=True):
        assert split == (mesh.fsdp * mesh.tensor > 1), f"{mesh}: the optimizer's moments lie in parts"
        np.testing.assert_allclose(found, losses, rtol=1e-5, err_msg=str(mesh))
        close = functools.partial(np.testing.assert_allclose, atol=2e-5, err_msg=str(mesh))
        jax.tree.map(close, params, expected)


def test_validation_takes_the_micro_batches_of_training_and_no_more_memory(train_config: TrainConfig) -> None:
    """Or the first validation would end a run whose steps fit."""
    found = []
    for accumulate in (1, 4):
        setup = build(train_config.replace(batch_size=8, accumulate=accumulate, validation_every=1))
        params, batch = setup.initial_state().params, setup.put(setup.validation_batches[0])
        program = setup.validation_step.lower(params, batch).compile()  # type: ignore[attr-defined]
        found.append((program(params, batch), compiled_memory(program).temporaries))
    (whole, most), (parts, less) = found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), parts, whole)
    assert less < most / 2


@pytest.mark.parametrize(
    ("devices", "mesh", "accumulate"),
    [
        (2, MeshConfig(2, 2, 1), 1),
        pytest.param(1, MeshConfig(2, 1, 1), 2, marks=pytest.mark.slow),
        pytest.param(2, MeshConfig(1, 2, 2), 1, marks=pytest.mark.slow),
        pytest.param(1, MeshConfig(1, 1, 2), 4, marks=pytest.mark.slow),  # both processes load the same rows
    ],
)
def test_two_processes_train_as_one(
    train_config: TrainConfig, tmp_path: Path, devices: int, mesh: MeshConfig, accumulate: int
) -> None:
    """The same data, losses and checkpoint as a process of one device that takes the batches whole.

    Without dropped paths: micro-batches draw their own.
    """
    config = train_config.replace(
        batch_size=8, validation_every=8, validation_batches=2, model=train_config.model.replace(stochastic_depth=0.0)
    )
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train(config, alone).exit_code == 0
    several = config.replace(mesh=mesh, accumulate=accumulate)
    with start_training(several, together, tmp_path / "logs", count=2, devices=devices) as processes:
        assert processes.wait() == [0, 0], processes.everything()
    assert saved_steps(together) == saved_steps(alone)
    for found, expected in zip(without_timings(together), without_timings(alone), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    params, _ = load_for_inference(together)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, load_for_inference(alone)[0])
