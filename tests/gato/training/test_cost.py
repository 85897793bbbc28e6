"""What a run says about its cost: bytes as they really lie on the devices, times as they were measured."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from gato import sharding
from gato.training import cost
from gato.training.config import TrainConfig
from gato.training.setup import build
from gato.training.trainer import train


def test_bytes_of_a_device_are_those_of_its_shards() -> None:
    mesh = jax.sharding.AbstractMesh((4, 2), ("fsdp", "tensor"))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", None))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree = {
        "split": jax.ShapeDtypeStruct((8, 16), np.float32, sharding=place),
        "whole": jax.ShapeDtypeStruct((3,), np.int16, sharding=whole),
    }
    assert cost.device_bytes(tree) == 8 // 4 * 16 * 4 + 3 * 2


def test_the_state_of_adam_is_two_more_of_the_parameters(train_config: TrainConfig) -> None:
    setup = build(train_config)
    state = jax.eval_shape(setup.create_state)
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, setup.state_shardings
    )
    parameters = cost.device_bytes(state.params)
    assert parameters == 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert 2 * parameters <= cost.device_bytes(state.opt_state) < 2 * parameters + 64
    text = cost.state_line(state, setup.mesh)
    assert "1 x cpu in 1 process (mesh: data 1, fsdp 1, tensor 1)" in text
    assert f"{cost.amount(parameters)} of parameters" in text


def test_the_compiled_step_tells_its_memory() -> None:
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    place = sharding.replicated(mesh)
    state = {"w": jax.device_put(np.ones((256, 256), np.float32), place)}
    batch = {"x": jax.device_put(np.ones((256, 256), np.float32), place)}

    def step(state, batch):
        return {"w": state["w"] + batch["x"] @ batch["x"]}, batch["x"].sum()

    jitted = jax.jit(step, in_shardings=(place, None), out_shardings=(place, place), donate_argnums=0)
    state, _ = jitted(state, batch)
    text = cost.step_line(jitted, state, batch)
    assert text is not None
    size = re.match(r"memory of a device as compiled: (\S+) KiB", text)
    assert size is not None, text
    assert 512 <= float(size[1]) < 1100  # state and batch, 256 KiB each, the state's result in its own place


def test_a_fused_kernel_that_the_compiler_drops_is_missed() -> None:
    """A call by the kernel's name whose result makes no difference, which XLA finds out and JAX does not."""
    numbers = jax.numpy.ones(8, np.int32)

    def step(state, batch):
        called = jax.ffi.ffi_call("splash_mha_fwd", jax.ShapeDtypeStruct((8,), np.int32))(batch)
        return state + called * 0, batch.sum()

    text = cost.step_line(jax.jit(step), numbers, numbers)
    assert text is not None
    assert "WARNING: not in the compiled step, although chosen: splash attention, a fused TPU kernel" in text
    assert "WARNING" not in (cost.step_line(jax.jit(lambda state, batch: state + batch), numbers, numbers) or "")


def test_a_run_says_what_it_costs(train_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(train_config.replace(steps=12, checkpoint_every=12), tmp_path)
    said = capfd.readouterr().err
    order = [said.index(text) for text in ("memory of each:", "memory of a device as compiled:", "measured over 10:")]
    assert order == sorted(order)
    assert re.search(r"s a step, measured over 10: all 12 take .*, the 1 left ", said)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "0.999 KiB"),
        (2048, "2 KiB"),
        (3 << 20, "3 MiB"),
        (1000 << 20, "0.977 GiB"),
        (5 << 40, "5 TiB"),
    ],
)
def test_amounts(size: int, text: str) -> None:
    assert cost.amount(size) == text
