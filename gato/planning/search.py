"""Meshes, remat and batch sizes: all are estimated from the shapes; the best are compiled until enough of them fit."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from gato import sharding
from gato.chips import GIB
from gato.planning.compiled_step import CompilerError
from gato.planning.plan import Plan, make_plan
from gato.planning.topology import PlanError, Topology
from gato.tokenizers.errors import GatoError
from gato.training.config import MeshConfig, TrainConfig

BATCH_FACTORS = (1, 2, 4)  # of the configuration's batch
ACCUMULATE = (1, 4)
REMAT: tuple[Literal["none", "dots", "full"], ...] = ("none", "dots", "full")
MARGIN = 1.3  # the estimate of the memory may be so much too high, where the compiler has the last word
MOST = 4  # times as many compilations as plans are wanted, if some do not fit


def search(
    config: TrainConfig,
    topology: Topology,
    *,
    tried: int,
    mesh: MeshConfig | None = None,
    devices: list[Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    target_share: float | None = None,
    patch_share: float | None = None,
) -> tuple[list[Plan], list[Plan]]:
    """Plans, those that fit first, the fastest (tokens per second) first; and all estimates.

    Args:
      tried: how many are wanted. Where they can be compiled, so many that fit, by `MOST` times as many compilations.
      mesh: the only one to try. devices: `describe(topology)`.
      progress: gets a line before each compilation.
      target_share, patch_share: of `make_plan`.

    Raises:
      PlanError: each combination is refused, or none fits even by the estimate. That none fits as compiled is for the
        caller to see.
    """
    plan = functools.partial(make_plan, target_share=target_share, patch_share=patch_share)
    estimates: list[Plan] = []
    refused: list[GatoError] = []
    for candidate, arranged in combinations(config, topology, mesh):
        try:
            estimates.append(plan(candidate, topology, arranged, compiled=False))
        except GatoError as error:  # the network does not divide over this mesh, or nothing of it can be planned
            refused.append(error)
    if refused and not estimates:
        raise PlanError("; ".join(dict.fromkeys(map(str, refused))))
    if not estimates:
        where = "this mesh" if mesh else f"any mesh of {topology.devices} devices"
        raise PlanError(
            f"no batch of {config.batch_size} rows, or some times as many, divides over {where} (data x fsdp)"
        )
    margin = MARGIN if topology.compiled else 1.0
    possible = [estimate for estimate in estimates if estimate.needs.bytes <= margin * estimate.limit]
    if not possible:
        least = min(estimate.needs.bytes for estimate in estimates) / GIB
        raise PlanError(
            f"no mesh, remat and batch size fits {topology.name}; the smallest needs about {least:.1f} GiB a device: "
            "take more or larger chips"
        )
    possible.sort(key=_speed, reverse=True)
    if not topology.compiled:
        return possible[:tried], estimates

    def compiled(estimate: Plan) -> Plan:
        return plan(estimate.config, topology, MeshConfig(**estimate.mesh), devices=devices)

    plans = compile_in_turn(possible, compiled, tried, progress)
    return sorted(plans, key=lambda one: (one.fits, _speed(one)), reverse=True), estimates


def compile_in_turn(
    estimates: Sequence[Plan], compiled: Callable[[Plan], Plan], wanted: int, progress: Callable[[str], None]
) -> list[Plan]:
    """Compiles one after the other until `wanted` of them fit, but no more than `MOST` times as many.

    What by its estimate needs no less than another with the same mesh and remat that did not fit is left out. One at
    which the compiler fails costs only itself: it keeps its estimate, and what the compiler said.
    """
    plans: list[Plan] = []
    too_large: dict[tuple[object, ...], int] = {}
    for estimate in estimates:
        fitting = sum(plan.fits for plan in plans)
        if fitting == wanted or len(plans) == MOST * wanted:
            break
        kind = (*estimate.mesh.values(), estimate.config.model.remat)
        if kind in too_large and estimate.needs.bytes >= too_large[kind]:
            continue
        progress(f"compiling number {len(plans) + 1} ({fitting} of {wanted} fit so far): {describe_choice(estimate)}")
        try:
            plans.append(compiled(estimate))
        except CompilerError as error:
            progress(str(error))
            plans.append(dataclasses.replace(estimate, seconds=None, error=str(error)))
            continue
        if not plans[-1].fits:
            too_large[kind] = min(estimate.needs.bytes, too_large.get(kind, estimate.needs.bytes))
    return plans


def require_one_that_fits(plans: Sequence[Plan]) -> None:
    """Raises `PlanError` if none of the plans of a search fits."""
    if any(plan.fits for plan in plans):
        return
    failures = [plan.error for plan in plans if plan.error]
    if len(failures) == len(plans):
        raise PlanError(f"none of the {len(plans)} combinations could be compiled; of the first: {failures[0]}")
    failed = f" ({len(failures)} more could not be compiled)" if failures else ""
    least, limit = min(plan.needs.bytes for plan in plans if not plan.error) / GIB, plans[0].limit / GIB
    raise PlanError(
        f"none of the {len(plans) - len(failures)} combinations that were compiled{failed} fits "
        f"{plans[0].topology.name}: the smallest needs {least:.1f} of {limit:.1f} GiB a device; take more or larger "
        "chips, or compile more (--tried)"
    )


def combinations(
    config: TrainConfig, topology: Topology, only: MeshConfig | None = None
) -> Iterator[tuple[TrainConfig, MeshConfig]]:
    """Everything that is tried, on `only` this mesh or all of `_meshes`."""
    if only is None:
        meshes = list(_meshes(config, topology))
    else:
        meshes = [MeshConfig(**sharding.mesh_sizes(only.data, only.fsdp, only.tensor, topology.devices))]
    for mesh in meshes:
        for remat in REMAT:
            model = config.model.replace(remat=remat)
            for factor in BATCH_FACTORS:
                for accumulate in ACCUMULATE:
                    batch = config.batch_size * factor
                    if batch % (mesh.data * mesh.fsdp * accumulate) == 0:
                        yield config.replace(model=model, batch_size=batch, accumulate=accumulate), mesh


def _meshes(config: TrainConfig, topology: Topology) -> Iterator[MeshConfig]:
    """fsdp and tensor in powers of two, tensor no further than the heads."""
    devices = topology.devices
    powers = [1 << power for power in range(devices.bit_length()) if devices % (1 << power) == 0]
    for tensor in powers:
        if config.model.heads % tensor or tensor > 16:
            continue
        for fsdp in powers:
            if devices % (tensor * fsdp) == 0 and config.model.width % fsdp == 0:
                yield MeshConfig(devices // (tensor * fsdp), fsdp, tensor)


def describe_choice(plan: Plan) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    config = plan.config
    return f"mesh {mesh}, remat {config.model.remat}, batch {config.batch_size}, accumulate {config.accumulate}"


def _speed(plan: Plan) -> float:
    return plan.tokens_per_second or -math.inf
