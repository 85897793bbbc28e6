"""The training step through XLA's TPU compiler, without a TPU (``make test-tpu``)."""

from __future__ import annotations

import importlib.util

import pytest

from gato.data_pipelines.mixture import SourceConfig
from gato.model.attention import choose, fused_in, platform
from gato.model.presets import preset
from gato.planning.compiled_step import compile_step, plan_steps
from gato.planning.plan import make_plan
from gato.planning.topology import PlanError, describe, parse
from gato.sharding import make_mesh
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import MeshConfig, TrainConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, the TPU compiler, is not installed: make test-tpu has it in an environment of its own",
    ),
]


def experiment(name: str, batch_size: int, **changes: object) -> TrainConfig:
    model = preset(
        name, Vocabulary(), **{"dtype": "bfloat16", "remat": "full", "position": "rope", "scan_layers": True} | changes
    )
    return TrainConfig(model=model, sources=(SourceConfig("none"),), batch_size=batch_size, length=256)


@pytest.mark.parametrize("name", ["v3:4x4", "v4:2x2x4", "v5e:4x4", "v5p:2x2x4", "v6e:4x4"])
def test_every_generation_is_described(name: str) -> None:
    topology = parse(name)
    devices = describe(topology)
    assert len(devices) == topology.devices
    assert any(kind in devices[0].device_kind for kind in topology.chip.kinds), devices[0].device_kind


def test_a_slice_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(PlanError, match=r"--topology=v5e:3x5: libtpu"):
        describe(parse("v5e:3x5"))


def test_a_step_compiles_with_its_collectives() -> None:
    config = experiment("quickstart", 32, layers=4)
    plan = make_plan(config, parse("v5e:4x4"), MeshConfig(4, 2, 2), target_share=0.5, patch_share=0.25)
    assert plan.fits
    memory = plan.needs.memory
    assert memory is not None
    assert memory.aliased > 0.9 * memory.outputs, "the new state takes the place of the old one"
    found = plan.needs.collectives
    assert found
    axes = {one.axis for one in found}
    assert any("fsdp" in axis for axis in axes)
    assert any("tensor" in axis for axis in axes)
    assert any("data" in axis for axis in axes)
    assert any(one.runs == config.model.layers - 1 for one in found), "inside the scanned layers"
    # No device may gather what another's rows are about: hidden states, logits or patches of the whole batch.
    tokens = 32 * 256 // 8  # of a device
    largest = tokens * config.model.width * 2 * 7  # the hidden states of the other seven parts
    assert all(one.bytes / one.runs < largest for one in found if one.kind == "all-gather" and "data" in one.axis)


@pytest.mark.parametrize(
    ("where", "position", "asked", "want"),
    [
        ("v5e:2x4", "rope", "auto", {"splash"}),
        ("v5e:2x4", "transformer_xl", "fused", {"relative"}),
        ("v5e:2x4", "transformer_xl", "auto", set()),
        ("v5e:2x4", "rope", "xla", set()),
        ("v4:2x2x2", "transformer_xl", "fused", {"relative"}),
        ("v3:2x2", "transformer_xl", "fused", {"relative_v3"}),
        ("v3:2x2", "rope", "auto", set()),
    ],
)
def test_the_compiled_step_holds_the_fused_kernel_that_was_chosen(
    where: str, position: str, asked: str, want: set[str]
) -> None:
    """On several devices, behind remat and inside the scanned layers, as large runs have it."""
    config = experiment("quickstart", 16, layers=3, position=position, attention=asked)
    mesh = make_mesh(2, 2, 2, devices=describe(parse(where)))
    assert {choose(config.model, platform(mesh))} - {"blocks"} == want
    assert platform(mesh) == ("tpu_v3" if where.startswith("v3") else "tpu")
    step = compile_step(config, plan_steps(config, mesh), targets=512, patches=64)
    assert fused_in(step.text) == want


def test_what_does_not_fit_is_said_and_not_raised() -> None:
    config = experiment("gato_1_2b", 16).replace(length=1024)
    plan = make_plan(config, parse("v5e:2x2"), MeshConfig(4, 1, 1), target_share=0.5, patch_share=0.25)
    assert not plan.fits
    assert plan.seconds is None
    assert plan.needs.bytes > plan.limit


def test_an_estimate_knows_what_the_patch_encoder_keeps() -> None:
    """The slope of the compiler's memory over patches: for small models with pictures it is most of all memory."""
    config, where = experiment("gato_79m", 32, layers=2), parse("v5e:2x2")
    compiled, estimated = (
        [
            plan.needs.memory.temporaries
            for share in (0.25, 0.75)
            if (plan := make_plan(config, where, MeshConfig(), target_share=0.25, patch_share=share, compiled=really))
            and plan.needs.memory is not None
        ]
        for really in (True, False)
    )
    assert estimated[1] - estimated[0] == pytest.approx(compiled[1] - compiled[0], rel=0.2)
