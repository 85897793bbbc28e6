"""The training step through XLA's GPU compiler, without a GPU (``make test-gpu``)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gato.chips import CHIPS, Chip, find
from gato.data_pipelines.mixture import SourceConfig
from gato.model.attention import Backend, choose, fused_in, platform, run
from gato.model.blockwise import Position
from gato.model.presets import preset
from gato.planning.compiled_step import compile_step, plan_steps
from gato.planning.plan import make_plan
from gato.planning.topology import describe, parse
from gato.sharding import make_mesh
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import MeshConfig, TrainConfig
from gato.training.out_of_memory import OutOfMemoryError, levers_named

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not parse("h200:1x1").compiled,
        reason="JAX's CUDA plugin is not installed: make test-gpu has it in an environment of its own",
    ),
]


def experiment(name: str, batch_size: int, **changes: object) -> TrainConfig:
    model = preset(
        name, Vocabulary(), **{"dtype": "bfloat16", "remat": "full", "position": "rope", "scan_layers": True} | changes
    )
    return TrainConfig(model=model, sources=(SourceConfig("none"),), batch_size=batch_size, length=256)


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if not chip.dimensions], ids=lambda chip: chip.name)
def test_every_gpu_is_described(chip: Chip) -> None:
    devices = describe(parse(f"{chip.name}:2x8"))
    assert [device.process_index for device in devices] == [0] * 8 + [1] * 8
    assert find(devices[0].device_kind) is chip


def test_a_step_compiles_with_its_collectives() -> None:
    config = experiment("quickstart", 32, layers=4)
    plan = make_plan(config, parse("h200:1x8"), MeshConfig(2, 2, 2), target_share=0.5, patch_share=0.25)
    assert plan.compiled
    assert plan.fits
    memory = plan.needs.memory
    assert memory is not None
    assert memory.aliased > 0.9 * memory.outputs, "the new state takes the place of the old one"
    found = plan.needs.collectives
    assert found
    axes = {one.axis for one in found}
    assert all(any(axis in one for one in axes) for axis in ("data", "fsdp", "tensor"))
    assert any(one.runs == config.model.layers - 1 for one in found), "inside the scanned layers"
    weights = 2 * plan.parameters / 2  # bfloat16, of which `tensor` leaves a half
    gathered = sum(one.bytes for one in found if (one.kind, one.axis) == ("all-gather", "fsdp"))
    assert 0.9 * weights < gathered < 3 * weights, (
        "the half that is elsewhere, for two passes, and what is not split by `tensor`"
    )


@pytest.mark.parametrize(
    ("position", "asked", "want"),
    [
        ("rope", "auto", {"triton"}),
        ("transformer_xl", "fused", {"relative_triton"}),
        ("transformer_xl", "auto", set()),
    ],
)
def test_the_compiled_step_holds_the_fused_kernel_that_was_chosen(position: str, asked: str, want: set[str]) -> None:
    """On several devices, behind remat and inside the scanned layers, as large runs have it."""
    config = experiment("quickstart", 16, layers=3, position=position, attention=asked)
    mesh = make_mesh(2, 2, 2, devices=describe(parse("h200:1x8")))
    assert {choose(config.model, platform(mesh))} - {"blocks"} == want
    step = compile_step(config, plan_steps(config, mesh), targets=512, patches=64)
    assert fused_in(step.text) == want


def both_passes_of_attention(chip: str, backend: Backend, head_dim: int) -> None:
    """Compiles them for one GPU."""
    place = NamedSharding(Mesh(np.array(describe(parse(f"{chip}:1x1"))), ("data",)), PartitionSpec())

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def loss(arrays: Any, segments: jax.Array) -> jax.Array:
        q, k, v, queries, keys = arrays
        out = run(q, k, v, segments, Position(queries, keys), None, backend)
        return out.astype(jnp.float32).sum()

    x_BHLK, keys_HMK = array(2, 4, 512, head_dim), array(4, 512, head_dim)
    jax.jit(jax.grad(loss)).lower((x_BHLK,) * 4 + (keys_HMK,), array(2, 512, dtype=jnp.int32)).compile()


@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("backend", ["triton", "relative_triton"])
@pytest.mark.parametrize("chip", ["a100", "h200", "b200"])
def test_kernels_compile(chip: str, backend: Backend, head_dim: int) -> None:
    if (chip, backend, head_dim) == ("b200", "relative_triton", 128):
        with (
            pytest.raises(OutOfMemoryError, match=r'multiprocessor.*set model.attention="xla"'),
            levers_named(experiment("gato_1_2b", 1)),
        ):
            both_passes_of_attention(chip, backend, head_dim)
    else:
        both_passes_of_attention(chip, backend, head_dim)


def test_what_does_not_fit_is_said_and_not_raised() -> None:
    config = experiment("gato_7b", 8, layers=32)
    plan = make_plan(config, parse("h100:1x1"), MeshConfig(1, 1, 1), target_share=0.5, patch_share=0.25)
    assert plan.compiled
    assert not plan.fits
    assert plan.needs.bytes > plan.limit


@pytest.mark.parametrize(("position", "remat"), [("rope", "none"), ("transformer_xl", "full")])
def test_an_estimate_is_near_what_is_compiled(position: str, remat: str) -> None:
    """Where the patch encoder and what is kept of each layer, or scores in tiles, need most of the memory."""
    config = experiment("gato_79m", 32, layers=3, position=position, remat=remat).replace(length=1024)
    compiled, estimated = (
        make_plan(config, parse("h200:1x4"), MeshConfig(), target_share=0.2, patch_share=0.5, compiled=really)
        for really in (True, False)
    )
    assert estimated.needs.bytes == pytest.approx(compiled.needs.bytes, rel=0.2)
