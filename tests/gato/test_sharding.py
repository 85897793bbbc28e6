"""The mesh, the table of names, and one step on eight fake devices."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from gato.model.config import ModelError
from gato.model.presets import preset
from gato.model.transformer import abstract_params
from gato.sharding import (
    batch_parts,
    batch_sharding,
    hosted_groups,
    make_mesh,
    param_shardings,
    state_shardings,
)

EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, optax
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.sharding import batch_sharding, make_mesh, param_shardings, replicated, state_shardings

rng = np.random.default_rng(0)
config = preset("tiny", position="transformer_xl", scan_layers=True, layers=2)
rows, length = 8, 16
batch = {
    "ids": rng.integers(0, 3200, (rows, length)).astype(np.int32),
    "local_position": rng.integers(-2, 9, (rows, length)).astype(np.int16),
    "segment_ids": np.tile(np.repeat([1, 2], 8), (rows, 1)),
    "positions": np.tile(np.arange(16) % 8, (rows, 1)),
    "patch_index": rng.integers(-1, 4, (rows, length)).astype(np.int32),
    "patch_intervals": np.tile(np.asarray([0, 64, 64, 128], np.int16), (rows, length, 1)),
    "patches": rng.integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8),
    "target_index": np.tile(np.arange(0, 32, 4, dtype=np.int32), (4, 1)),
}
optimizer = optax.sgd(0.1, momentum=0.9)

def step(model, params, state, batch):
    def loss(params):
        hidden = model.apply(params, batch, hidden_at=batch["target_index"])
        return jax.nn.logsumexp(model.apply(params, hidden, method="logits"), -1).mean()
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params)
    return value, optax.apply_updates(params, updates), state

results = []
for sizes in ((1, 1, 1), (2, 2, 2)):
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    places = param_shardings(config, mesh)
    params = jax.jit(lambda: init_params(config, jax.random.key(0)), out_shardings=places)()
    moments = state_shardings(jax.eval_shape(optimizer.init, params), places, mesh)
    state = jax.jit(optimizer.init, out_shardings=moments)(params)
    on_mesh = jax.device_put(batch, batch_sharding(mesh))
    model = GatoModel(config, mesh)
    run = jax.jit(lambda p, s, b: step(model, p, s, b), out_shardings=(replicated(mesh), places, moments))
    value, params, state = run(params, state, on_mesh)
    kernel = params["params"]["last_block"]["feed_forward"]["gate"]
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (32 // sizes[1], 64 // sizes[2]), (sizes, shard)
    results.append((float(value), jax.tree.map(np.asarray, params)))
for value, params in results[1:]:
    np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, results[0][1])
print("same on eight devices")
"""


def test_eight_devices_take_the_same_step_as_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", EIGHT_DEVICES], env=os.environ | flags, capture_output=True, text=True)
    assert "same on eight devices" in done.stdout, done.stderr[-3000:]


def pod(data=4, fsdp=32, tensor=2):
    return AbstractMesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def test_rules_of_the_large_model():
    config = preset("gato_1_2b")
    places = param_shardings(config, pod())["params"]
    assert places["embedding"]["table"].spec == PartitionSpec("tensor", "fsdp")
    attention = places["blocks"]["attention"]
    assert attention["query"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert attention["out"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert places["blocks"]["feed_forward"]["down"].spec == PartitionSpec(None, "tensor", "fsdp")
    whole = [
        jax.tree_util.keystr(path)
        for (path, place), shape in zip(
            jax.tree_util.tree_leaves_with_path(places), jax.tree.leaves(abstract_params(config)["params"]), strict=True
        )
        if place.is_fully_replicated and np.prod(shape.shape) > 200_000
    ]
    assert not whole, "large parameters must be split"


def test_an_axis_that_does_not_divide_stays_whole():
    places = param_shardings(preset("gato_79m"), pod(1, 1, 16))["params"]
    assert places["last_block"]["attention"]["query"].spec == PartitionSpec("fsdp", None, None), "24 heads over 16"


def test_optimizer_state_lies_with_its_parameters():
    params = abstract_params(preset("gato_79m"))
    places = param_shardings(preset("gato_79m"), pod())
    state = {
        "params": params,
        "opt_state": jax.eval_shape(optax.adamw(1e-3).init, params),
        "step": params["params"]["norm"]["scale"],
    }
    got = state_shardings(state, places, pod())
    assert got["params"] == places
    assert got["opt_state"][0].mu == places
    assert got["opt_state"][0].nu == places
    assert got["opt_state"][0].count.spec == PartitionSpec()
    assert got["step"].spec == PartitionSpec()


def test_batches_are_split_by_rows_and_groups():
    assert batch_sharding(pod()).spec == PartitionSpec(("data", "fsdp"))
    assert batch_parts(pod()) == 128
    assert hosted_groups(make_mesh(devices=jax.devices()[:1]), 3) == [0, 1, 2]


def test_one_device_is_a_mesh_of_one():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (3, 1, 1), (0, 1, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_is_named(sizes):
    with pytest.raises(ModelError, match="mesh"):
        make_mesh(*sizes, devices=jax.devices()[:1])
