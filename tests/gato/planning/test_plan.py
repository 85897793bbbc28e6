"""Plans without a compiler: shapes, shares, FLOPs, JSON, and that the search finds the mesh that fits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gato.data_pipelines.mixture import SourceConfig
from gato.launch import cli
from gato.model.config import ModelError
from gato.model.presets import preset
from gato.planning import report
from gato.planning.compiled_step import CompilerError, abstract_arguments, compile_step, plan_steps
from gato.planning.paper_rows import ROWS, capacity_shares, mean_shares
from gato.planning.plan import Plan, make_plan
from gato.planning.search import compile_in_turn, require_one_that_fits, search
from gato.planning.topology import PlanError, parse
from gato.sharding import make_mesh
from gato.training.config import MeshConfig, TrainConfig
from gato.training.flops import train_flops


def experiment(name: str = "gato_1_2b", **changes: object) -> TrainConfig:
    model = preset(name, **{"dtype": "bfloat16", "remat": "full"} | changes)
    return TrainConfig(model=model, sources=(SourceConfig("none"),))


@pytest.fixture(autouse=True, scope="module")
def without_the_cuda_plugin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gato.planning.topology.CUDA_PLUGINS", ())
        yield


@pytest.fixture(scope="module")
def plan(without_the_cuda_plugin: None) -> Plan:
    return make_plan(experiment(), parse("h200:4x8"), MeshConfig(4, 8, 1), target_share=0.25, patch_share=0.5)


def test_what_is_counted(plan: Plan) -> None:
    assert plan.parameters == pytest.approx(1.18e9, rel=0.01)
    tokens = 512 * 1024
    assert plan.useful_flops == train_flops(plan.config.model, 512, 1024, tokens // 4, tokens // 2)
    again = plan.executed_flops / plan.useful_flops
    assert 4 / 3 < again < 1.5, "the blocks' forward pass runs twice, and tiles are whole"
    memory = plan.needs.memory
    assert memory is not None
    state = 3 * 4 * plan.parameters / 8  # parameters and two moments, float32, over 8
    assert state < memory.arguments < 1.1 * state + 3e8, "and the batch"
    gathered = [one for one in plan.needs.collectives or () if (one.kind, one.axis) == ("all-gather", "fsdp")]
    assert sum(one.bytes for one in gathered) == pytest.approx(2 * 2 * plan.parameters * 7 / 8)


def test_what_training_refuses_there_is_not_planned() -> None:
    config, where = experiment("gato_79m", attention="fused", dtype="float32"), parse("h200:1x1")
    with pytest.raises(ModelError, match=r"no kernel for position 'transformer_xl' .* on gpu; use 'auto'"):
        make_plan(config, where, MeshConfig(), compiled=False)
    make_plan(config.replace(model=config.model.replace(dtype="bfloat16")), where, MeshConfig(), compiled=False)


def test_room_that_stays_empty_is_no_useful_work() -> None:
    """As the trainer's `batch_flops` counts: otherwise a plan's MFU could never be measured."""
    plan = make_plan(experiment(remat="none"), parse("h200:4x8"), MeshConfig(4, 8, 1))
    assert plan.room == capacity_shares(16, 32)
    assert plan.mean == mean_shares()
    tokens = 512 * 1024
    counts = (round(share * tokens) for share in mean_shares())
    assert plan.useful_flops == train_flops(plan.config.model, 512, 1024, *counts)
    room = train_flops(plan.config.model, 512, 1024, *(round(share * tokens) for share in plan.room))
    assert plan.useful_flops < room < plan.executed_flops < 1.2 * room, "whole tiles, some of them twice"


def test_pictures_need_memory_and_its_time() -> None:
    """Each patch is 16 x 16 places of the encoder's width, several times: more than a token of all the layers keeps."""
    few, many = (
        make_plan(
            experiment("gato_79m", position="rope"),
            parse("h200:1x8"),
            MeshConfig(8, 1, 1),
            target_share=0.25,
            patch_share=share,
        )
        for share in (0.25, 0.75)
    )
    patches = 512 // 8 * 1024 // 2  # more of them on a device
    assert many.needs.bytes - few.needs.bytes > 11 * 16 * 16 * 128 * 2 * patches
    assert few.seconds is not None
    assert many.seconds is not None
    assert many.seconds.memory > 1.3 * few.seconds.memory


def test_micro_batches_keep_the_sum_of_gradients_beside_their_own() -> None:
    accumulated, alone = (
        make_plan(
            experiment("gato_79m").replace(batch_size=8 * count, accumulate=count),
            parse("h200:1x1"),
            MeshConfig(1, 1, 1),
            target_share=0.5,
            patch_share=0.5,
        )
        for count in (64, 1)
    )
    assert accumulated.needs.memory is not None
    assert alone.needs.memory is not None
    more = accumulated.needs.memory.temporaries - alone.needs.memory.temporaries
    assert more == pytest.approx(4 * alone.parameters), "the same rows at a time, and a sum of gradients"


def test_a_fused_kernel_keeps_no_scores() -> None:
    fused, plain = (
        make_plan(experiment("gato_79m", position="rope", attention=kind), parse("h200:1x8"), MeshConfig(8, 1, 1))
        for kind in ("fused", "xla")
    )
    scores = 64 * 24 * 512 * 1024 * 4  # of a block of queries of every row and head, float32
    assert plain.needs.bytes - fused.needs.bytes >= 3 * scores


def test_scores_of_plain_attention_go_through_memory() -> None:
    """XLA's plans of the 79M step on a v5e say 4.7 times the fused kernel's; unasked, GPUs have one for rope only."""
    fused, plain = (
        make_plan(experiment("gato_79m", attention=kind), parse("v5e:16x16"), MeshConfig(), compiled=False).seconds
        for kind in ("fused", "xla")
    )
    assert fused is not None
    assert plain is not None
    assert 4 < plain.memory / fused.memory < 6
    asking = make_plan(experiment("gato_79m"), parse("v5e:16x16"), MeshConfig(), compiled=False)
    assert "attention: tiles in plain XLA (model.attention=fused takes relative" in report.to_text(asking, "gato_79m")
    rope, transformer_xl = (
        make_plan(experiment("gato_79m", position=scheme), parse("h200:1x8"), MeshConfig()).seconds
        for scheme in ("rope", "transformer_xl")
    )
    assert rope is not None
    assert transformer_xl is not None
    assert transformer_xl.memory > 3 * rope.memory


def test_float32_is_computed_in_tf32() -> None:
    bfloat16, float32 = (
        make_plan(experiment(dtype=dtype), parse("h200:4x8"), MeshConfig(4, 8, 1)).seconds
        for dtype in ("bfloat16", "float32")
    )
    assert bfloat16 is not None
    assert float32 is not None
    assert float32.compute == 2 * bfloat16.compute


def test_a_gpu_keeps_a_tenth_of_its_memory() -> None:
    plan = make_plan(experiment("gato_79m"), parse("h200:1x1"), MeshConfig(1, 1, 1))
    almost = dataclasses.replace(
        plan, needs=dataclasses.replace(plan.needs, bytes=int(0.91 * plan.topology.chip.memory))
    )
    assert not almost.fits
    text = report.to_text(almost, "x")
    assert "GiB: DOES NOT FIT (of all 140.0" in text
    assert "with XLA_CLIENT_MEM_FRACTION=0.9" in text


def test_the_times_are_a_range_around_the_expected_one(plan: Plan) -> None:
    seconds = plan.seconds
    assert seconds is not None
    assert seconds.fastest < seconds.expected < seconds.slowest
    assert plan.mfu(seconds.slowest) < plan.mfu(seconds.expected) < plan.mfu(seconds.fastest) < 1
    assert seconds.bound == "memory"


def test_json_and_text_say_what_is_a_model(plan: Plan) -> None:
    data = json.loads(json.dumps(report.to_json(plan, "x", budget=1e9)))
    assert {"config", "topology", "mesh", "parameters", "fits", "tokens_per_second", "mfu"} <= set(data)
    assert data["useful_flops_per_step"] < data["executed_flops_per_step"]
    assert data["targets_per_token"] == {"mean": 0.25, "room": 0.25}, "what is given is both"
    assert {"arguments", "temporaries", "total", "limit"} <= set(data["bytes_per_chip"])
    assert {"compute", "memory", "network", "expected"} <= set(data["step_seconds"])
    assert {"kind", "axis", "bytes"} <= set(data["collectives"][0])
    assert "bytes_per_chip" in data["is_a_model"], "nothing was compiled"
    assert data["days"] == pytest.approx(1e9 / data["tokens_per_second"] / 86400)
    text = report.to_text(plan, "x")
    assert "a model, not a measurement" in text
    assert "nothing was compiled" in text
    assert '--editable ".[gpu]" (a large download, no GPU needed)' in text
    assert "useful FLOPs, for 25% targets and 50% patches a token" in text


def test_fewer_rows_need_more_room() -> None:
    """A device with two rows must hold two rows of text; one with a thousand holds nearly the mixture."""
    assert sum(weight for weight, _, _ in ROWS.values()) == pytest.approx(100, abs=0.1)
    two, many = capacity_shares(2, 256), capacity_shares(1024, 1)
    for few, most, average in zip(two, many, mean_shares(), strict=True):
        assert average < most < 1.2 * average
        assert few > 1.5 * most
    assert two[0] == 1.0
    assert capacity_shares(2, 256) == two


def test_a_search_ranks_what_fits_and_changes_the_mesh_for_7b() -> None:
    config = experiment("gato_7b", position="rope")
    alone = make_plan(config, parse("h100:1x8"), MeshConfig(8, 1, 1))
    assert not alone.fits, "7B parameters with their moments on every GPU"
    plans, estimates = search(config, parse("h100:1x8"), tried=3)
    assert len(plans) == 3 < len(estimates)
    assert all(plan.fits and plan.mesh["fsdp"] * plan.mesh["tensor"] > 1 for plan in plans)
    rates = [plan.tokens_per_second or 0 for plan in plans]
    assert rates == sorted(rates, reverse=True)
    assert "data x fsdp x tensor" in report.ranking(plans, estimates)


def test_a_search_says_why_nothing_can_be_planned() -> None:
    with pytest.raises(PlanError, match="no kernel for position 'transformer_xl'"):
        search(experiment("gato_79m", attention="fused", dtype="float32"), parse("h200:1x1"), tried=1)


def test_a_group_that_straddles_two_nodes_sends_through_the_network() -> None:
    """Three GPUs a group on nodes of eight: the third group has two on one node and one on the next."""
    config = experiment("gato_79m", width=768).replace(batch_size=480)
    inside = make_plan(config, parse("h100:3x8"), MeshConfig(12, 2, 1)).seconds
    straddling = make_plan(config, parse("h100:3x8"), MeshConfig(8, 3, 1)).seconds
    assert inside is not None
    assert straddling is not None
    assert straddling.network > 1.5 * inside.network


def test_a_search_on_one_mesh_tries_no_other() -> None:
    config, eight = experiment("gato_79m", position="rope"), parse("h100:1x8")
    plans, estimates = search(config, eight, tried=2, mesh=MeshConfig(-1, 4, 1))
    assert len(plans) == 2
    assert {tuple(plan.mesh.values()) for plan in estimates} == {(2, 4, 1)}
    assert {plan.config.model.remat for plan in estimates} == {"none", "dots", "full"}
    with pytest.raises(ModelError, match="does not fit 8 device"):
        search(config, eight, tried=2, mesh=MeshConfig(3, 1, 1))
    with pytest.raises(PlanError, match="no batch of 2 rows, or some times as many, divides over this mesh"):
        search(config.replace(batch_size=2), parse("h100:8x8"), tried=2, mesh=MeshConfig(64, 1, 1))


@pytest.fixture(scope="module")
def estimates() -> list[Plan]:
    """Of one mesh, those that need most memory first."""
    found = search(experiment("gato_79m", position="rope"), parse("h100:1x8"), tried=1, mesh=MeshConfig(2, 4, 1))[1]
    return sorted(found, key=lambda plan: -plan.needs.bytes)


def compiles_to(limit: int) -> Callable[[Plan], Plan]:
    """In place of the compiler: says what the estimate says, on a device with so much memory."""
    return lambda estimate: dataclasses.replace(estimate, limit=limit)


def test_a_search_goes_on_until_enough_fit(estimates: list[Plan]) -> None:
    said: list[str] = []
    plans = compile_in_turn(estimates, compiles_to(estimates[6].needs.bytes), 3, said.append)
    assert [plan.fits for plan in plans] == [False] * 6 + [True] * 3
    assert len(said) == 9
    assert "number 9 (2 of 3 fit so far)" in said[-1]
    require_one_that_fits(plans)


def test_a_search_ends_where_nothing_fits(estimates: list[Plan]) -> None:
    plans = compile_in_turn(estimates, compiles_to(0), 2, lambda line: None)
    assert len(plans) == 8, "four times as many as were wanted"
    with pytest.raises(PlanError, match=r"none of the 8 combinations that were compiled fits h100:1x8: the smallest"):
        require_one_that_fits(plans)
    smallest_first = compile_in_turn(estimates[::-1], compiles_to(0), 2, lambda line: None)
    assert len(smallest_first) == 3, "one for each remat: the others need more"


def test_a_search_survives_a_compiler_that_fails(estimates: list[Plan]) -> None:
    fits = compiles_to(estimates[0].needs.bytes)

    def compiled(estimate: Plan) -> Plan:
        if estimate is estimates[1]:
            raise CompilerError("the compiler failed: INTERNAL: Mosaic")
        return fits(estimate)

    said: list[str] = []
    plans = compile_in_turn(estimates, compiled, 2, said.append)
    assert [plan.fits for plan in plans] == [True, False, True], "what was compiled before is kept, and it goes on"
    assert "the compiler failed: INTERNAL: Mosaic" in said
    require_one_that_fits(plans)
    assert "the compiler failed: INTERNAL: Mosaic" in report.ranking(plans, estimates).splitlines()[2]
    assert report.to_text(plans[1], "x").endswith("INTERNAL: Mosaic")
    assert report.to_json(plans[1], "x")["error"]
    with pytest.raises(PlanError, match="none of the 1 combinations could be compiled; of the first: the compiler"):
        require_one_that_fits(plans[1:2])


def test_what_the_compiler_refuses_is_one_line() -> None:
    """The compiler of this machine, at an operation that nobody has implemented."""
    config = experiment("gato_79m", layers=2).replace(batch_size=2, length=128)
    steps = plan_steps(config, make_mesh(devices=jax.devices()[:1]))
    unknown = jax.ffi.ffi_call("nobody_has_this", jax.ShapeDtypeStruct((), np.float32))
    broken = dataclasses.replace(steps, train_step=jax.jit(lambda state, batch: unknown(batch["loss_weight"])))
    with pytest.raises(CompilerError, match=r"the compiler failed: .*nobody_has_this"):
        compile_step(config, broken, targets=64, patches=64)


def test_remat_saves_memory_for_arithmetic() -> None:
    """By the estimate; a plan of a TPU has the compiler's word."""
    none, dots, full = (
        make_plan(experiment("gato_1_2b", remat=remat), parse("h200:4x8"), MeshConfig(4, 8, 1))
        for remat in ("none", "dots", "full")
    )
    assert none.needs.bytes > dots.needs.bytes > full.needs.bytes
    assert none.executed_flops < dots.executed_flops < full.executed_flops
    assert none.useful_flops == full.useful_flops, "what is computed again does not count"


def stacked_bytes(jaxpr: Any, turns: int) -> int:
    """What scans of so many turns stack up for the backward pass."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and equation.params["length"] == turns:
            stacked = [one.aval for one in equation.outvars[equation.params["num_carry"] :]]
            total += sum(one.size * one.dtype.itemsize for one in stacked)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda one: hasattr(one, "eqns")):
            if hasattr(inner, "eqns"):  # of a closed one, too
                total += stacked_bytes(getattr(inner, "jaxpr", inner), turns)
    return total


@pytest.mark.parametrize("position", ["rope", "transformer_xl"])
def test_without_remat_all_that_differentiation_keeps_is_estimated(position: Any) -> None:
    config = experiment("gato_79m", position=position, remat="none").replace(batch_size=32)
    steps = plan_steps(config, make_mesh(devices=jax.devices()[:1]))
    kept = stacked_bytes(jax.make_jaxpr(steps.train_step)(*abstract_arguments(config, steps, 64, 64)).jaxpr, 7)
    none, full = (
        make_plan(one, parse("h200:1x1"), MeshConfig(), target_share=0.1, patch_share=0.1).needs.bytes
        for one in (config, config.replace(model=config.model.replace(remat="full")))
    )
    assert none - full == pytest.approx(kept, rel=0.15)


def test_a_search_in_vain_says_what_would_be_needed() -> None:
    with pytest.raises(PlanError, match=r"fits h100:1x1; the smallest needs about \d+"):
        search(experiment("gato_7b", position="rope"), parse("h100:1x1"), tried=1)


def test_the_command_reads_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", jax.config.jax_platforms or "cpu")
    command = "plan --config=gato_79m --topology=h200:1x8 --config.model.position=rope --json plan.json"
    assert cli.main(command.split()) == 0
    data = json.loads(Path("plan.json").read_text())
    assert (data["config"], data["position"], data["mesh"]["data"]) == ("gato_79m", "rope", 8)
    assert "74M parameters" in capsys.readouterr().out
    assert cli.main([*command.split()[:-1], "nowhere/plan.json"]) == 2


@pytest.mark.skipif(parse("h200:1x1").compiled, reason="JAX's CUDA plugin is here, so that it is compiled")
def test_what_cannot_be_compiled_for_a_gpu_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that is no plugin stands for one that does not work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", jax.config.jax_platforms or "cpu")
    monkeypatch.setattr("gato.planning.topology.CUDA_PLUGINS", ("jax",))
    assert cli.main(["plan", "--config=gato_79m", "--topology=h200:1x8"]) == 0
    said, error = capsys.readouterr()
    assert "--topology=h200:1x8: the CUDA plugin refuses it: " in error
    assert "; so it is estimated" in error
    assert "nothing was compiled" in said
