"""The mesh, the table of names, and one step on eight fake devices."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys

import jax
import optax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gato.data_pipelines.mixture import SourceConfig
from gato.model.attention import fused_in
from gato.model.config import ModelError
from gato.model.presets import preset
from gato.model.transformer import abstract_params
from gato.planning.compiled_step import abstract_arguments, plan_steps
from gato.sharding import (
    batch_parts,
    batch_sharding,
    hosted_groups,
    make_mesh,
    param_shardings,
    partition,
    state_shardings,
)
from gato.training.config import TrainConfig

EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, optax
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.sharding import batch_sharding, make_mesh, param_shardings, replicated, state_shardings

rng = np.random.default_rng(0)
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
    return value, gradient, optax.apply_updates(params, updates), state

# Rows of one tile and, where each device computes the gradient of the tiled attention itself, of four.
runs = [
    ("transformer_xl", (1, 1, 1), None),
    ("transformer_xl", (2, 2, 2), None),
    ("transformer_xl", (2, 2, 2), 5),
    ("rope", (1, 1, 1), None),
    ("rope", (2, 2, 2), 5),
]
alone = {}
for position, sizes, block in runs:
    config = preset("tiny", position=position, scan_layers=True, layers=2, attention_block=block)
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    places = param_shardings(config, mesh)
    params = jax.jit(lambda: init_params(config, jax.random.key(0)), out_shardings=places)()
    moments = state_shardings(jax.eval_shape(optimizer.init, params), places, mesh)
    state = jax.jit(optimizer.init, out_shardings=moments)(params)
    on_mesh = jax.device_put(batch, batch_sharding(mesh))
    model = GatoModel(config, mesh)
    run = jax.jit(lambda p, s, b: step(model, p, s, b), out_shardings=(replicated(mesh), places, places, moments))
    value, gradient, params, state = run(params, state, on_mesh)
    kernel = params["params"]["last_block"]["feed_forward"]["gate"]
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (32 // sizes[1], 64 // sizes[2]), (sizes, shard)
    found = jax.tree.map(np.asarray, (value, gradient, params))
    expected = alone.setdefault(position, found)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * abs(b).max(), err_msg=f"{position} {block}")
    jax.tree.map(close, found[1:], expected[1:])
print("same on eight devices")
"""


def test_eight_devices_take_the_same_step_as_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", EIGHT_DEVICES], env=os.environ | flags, capture_output=True, text=True)
    assert "same on eight devices" in done.stdout, done.stderr[-3000:]


def pod(data=4, fsdp=32, tensor=2):
    """Of TPUs: the model chooses its kernels by the mesh, not by this machine."""
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    axes = ("data", "fsdp", "tensor")
    return AbstractMesh((data, fsdp, tensor), axes, axis_types=(AxisType.Auto,) * 3, abstract_device=device)


def test_rules_of_the_large_model():
    config = preset("gato_1_2b")
    places = param_shardings(config, pod())["params"]
    assert places["embedding"]["table"].spec == PartitionSpec("tensor", "fsdp")
    attention = places["blocks"]["attention"]
    assert attention["query"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert attention["out"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert places["blocks"]["feed_forward"]["down"].spec == PartitionSpec(None, "tensor", "fsdp")


# A leaf that every device holds whole may have so many numbers (the norms, biases and patch convolutions do).
SMALL = 200_000


def whole_leaves(state):
    """Prints every leaf with its shape and sharding; names of the large ones that fsdp does not split.

    A kernel that is split over tensor alone fills the memory too: tensor is small, or 1.
    """
    whole = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        print(f"{name:<90}{leaf.shape!s:<24}{leaf.sharding.spec}")
        split_over = [axis for axes in leaf.sharding.spec for axis in ([axes] if isinstance(axes, str) else axes or ())]
        divides = any(size % leaf.sharding.mesh.shape["fsdp"] == 0 for size in leaf.shape)
        if "fsdp" not in split_over and divides and math.prod(leaf.shape) > SMALL:
            whole.append(name)
    return whole


def planned(mesh, name="gato_1_2b", **changes):
    model = preset(name, dtype="bfloat16", remat="full", **changes)
    config = TrainConfig(model=model, sources=(SourceConfig("none"),))
    steps = plan_steps(config, mesh)
    return steps, *abstract_arguments(config, steps, targets=1024, patches=1024)


@pytest.mark.parametrize("name", ["gato_79m", "gato_364m", "gato_1_2b", "gato_7b"])
def test_every_large_leaf_is_split_over_fsdp(name):
    _, state, batch = planned(pod(), name)
    assert not whole_leaves(state), "see the printed shardings: these leaves fill every device's memory"
    assert all(leaf.sharding.spec[0] == ("data", "fsdp") for leaf in jax.tree.leaves(batch)), "rows are split"


@pytest.mark.parametrize("names", [(None, None), ("vocabulary", None)])
def test_the_contract_sees_a_leaf_that_lost_names(names):
    """All names of its axes, as happens when `with_logical_partitioning` is forgotten, or only "embed"."""
    _, state, _ = planned(pod())
    params = state.params["params"]
    table = params["embedding"]["table"]
    place = NamedSharding(pod(), partition(names, table.shape, pod()))
    forgotten = jax.ShapeDtypeStruct(table.shape, table.dtype, sharding=place)
    assert whole_leaves({**params, "embedding": {**params["embedding"], "table": forgotten}}) == ["embedding/table"]


@pytest.mark.parametrize(
    ("position", "attention", "kernels"),
    [("rope", "auto", {"splash"}), ("transformer_xl", "auto", set()), ("transformer_xl", "fused", {"relative"})],
)
def test_the_large_step_lowers_for_256_devices(position, attention, kernels):
    """Tracing, differentiation and partitioning of the whole 1.18B step; what only a compiler sees is in
    tests/gato/planning/test_tpu_compile.py."""
    steps, state, batch = planned(pod(), position=position, attention=attention)
    text = steps.train_step.trace(state, batch).lower(lowering_platforms=("tpu",)).as_text()
    assert "mhlo.num_partitions = 256" in text
    assert fused_in(text) == kernels
    assert text.count("jax.buffer_donor") + text.count("tf.aliasing_output") >= len(jax.tree.leaves(state)) - 1


def test_an_axis_that_does_not_divide_stays_whole_and_is_named_once(caplog):
    with caplog.at_level(logging.WARNING, "gato.sharding"):
        places = param_shardings(preset("gato_79m"), pod(1, 1, 11))["params"]
    assert places["last_block"]["attention"]["query"].spec == PartitionSpec("fsdp", None, None), "24 heads over 11"
    heads = [message for message in caplog.messages if "'heads'" in message]
    assert len(heads) == 1, "not once for every kernel"
    assert "of size 24 cannot be split over the mesh's 11 devices along tensor" in heads[0]


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
