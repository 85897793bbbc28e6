"""Plans without a compiler: shapes, shares, FLOPs, JSON, and that the search finds the mesh that fits."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from gato.data_pipelines.mixture import SourceConfig
from gato.launch import cli
from gato.model.presets import preset
from gato.planning import report
from gato.planning.paper_rows import ROWS, capacity_shares
from gato.planning.plan import Plan, make_plan
from gato.planning.search import search
from gato.planning.topology import PlanError, parse
from gato.training.config import MeshConfig, TrainConfig
from gato.training.flops import train_flops


def experiment(name: str = "gato_1_2b", **changes: object) -> TrainConfig:
    return TrainConfig(model=preset(name, dtype="bfloat16", remat=True, **changes), sources=(SourceConfig("none"),))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(experiment(), parse("h200:4x8"), MeshConfig(4, 8, 1), target_share=0.25, patch_share=0.5)


def test_what_is_counted(plan: Plan) -> None:
    assert plan.parameters == pytest.approx(1.18e9, rel=0.01)
    tokens = 512 * 1024
    assert plan.flops == train_flops(plan.config.model, 512, 1024, tokens // 4, tokens // 2)
    assert 1.2 * plan.flops < plan.executed_flops < 4 / 3 * plan.flops, "the blocks' forward pass runs twice"
    memory = plan.memory
    assert memory is not None
    state = 3 * 4 * plan.parameters / 8  # parameters and two moments, float32, over 8
    assert state < memory.arguments < 1.1 * state + 3e8, "and the batch"
    gathered = [one for one in plan.collectives or () if (one.kind, one.axis) == ("all-gather", "fsdp")]
    assert sum(one.bytes for one in gathered) == pytest.approx(2 * 2 * plan.parameters * 7 / 8)


def test_the_times_are_a_range_around_the_expected_one(plan: Plan) -> None:
    seconds = plan.seconds
    assert seconds is not None
    assert seconds.fastest < seconds.expected < seconds.slowest
    assert plan.mfu(seconds.slowest) < plan.mfu(seconds.expected) < plan.mfu(seconds.fastest) < 1
    assert seconds.bound == "compute"


def test_json_and_text_say_what_is_a_model(plan: Plan) -> None:
    data = json.loads(json.dumps(report.to_json(plan, "x", budget=1e9)))
    assert {"config", "topology", "mesh", "parameters", "fits", "flops_per_step", "tokens_per_second", "mfu"} <= set(
        data
    )
    assert {"arguments", "temporaries", "total", "limit"} <= set(data["bytes_per_chip"])
    assert {"compute", "memory", "network", "expected"} <= set(data["step_seconds"])
    assert {"kind", "axis", "bytes"} <= set(data["collectives"][0])
    assert "bytes_per_chip" in data["is_a_model"], "nothing was compiled"
    assert data["days"] == pytest.approx(1e9 / data["tokens_per_second"] / 86400)
    text = report.to_text(plan, "x")
    assert "a model, not a measurement" in text
    assert "nothing was compiled" in text


def test_fewer_rows_need_more_room() -> None:
    """A device with two rows must hold two rows of text; one with a thousand holds nearly the mixture."""
    assert sum(weight for weight, _, _ in ROWS.values()) == pytest.approx(100, abs=0.1)
    weights, targets, patches = zip(*ROWS.values(), strict=True)
    mean = [np.average(shares, weights=weights) for shares in (targets, patches)]
    two, many = capacity_shares(2, 256), capacity_shares(1024, 1)
    for few, most, average in zip(two, many, mean, strict=True):
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
