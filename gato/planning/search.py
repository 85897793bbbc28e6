"""Meshes, remat and batch sizes: all are estimated from the shapes, the best of them are compiled and ranked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from gato.planning.plan import Plan, make_plan
from gato.planning.topology import PlanError, Topology
from gato.tokenizers.errors import GatoError
from gato.training.config import MeshConfig, TrainConfig

BATCH_FACTORS = (1, 2, 4)  # of the configuration's batch
ACCUMULATE = (1, 4)
MARGIN = 1.3  # the estimate of the memory may be so much too high, where the compiler has the last word


def search(
    config: TrainConfig,
    topology: Topology,
    *,
    tried: int,
    devices: list[Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    target_share: float | None = None,
    patch_share: float | None = None,
) -> tuple[list[Plan], list[Plan]]:
    """Plans, those that fit first, the fastest (tokens per second) first; and all estimates.

    Args:
      tried: how many are compiled, where that is possible. devices: `describe(topology)`.
      progress: gets a line before each compilation.
      target_share, patch_share: of `make_plan`.

    Raises:
      PlanError: no combination fits, even by the estimate.
    """
    plan = functools.partial(make_plan, target_share=target_share, patch_share=patch_share)
    estimates = []
    for candidate, mesh in combinations(config, topology):
        try:
            estimates.append(plan(candidate, topology, mesh, compiled=False))
        except GatoError:  # does not divide
            continue
    margin = MARGIN if topology.is_tpu else 1.0
    possible = [estimate for estimate in estimates if estimate.needed <= margin * estimate.limit]
    if not possible:
        smallest = min(estimates, key=lambda estimate: estimate.needed, default=None)
        least = f"; the smallest needs about {smallest.needed / 2**30:.1f} GiB a device" if smallest else ""
        raise PlanError(f"no mesh, remat and batch size fits {topology.name}{least}: take more or larger chips")
    possible.sort(key=_speed, reverse=True)
    if not topology.is_tpu:
        return possible[:tried], estimates
    plans = []
    for number, estimate in enumerate(possible[:tried], 1):
        progress(f"compiling {number} of {min(tried, len(possible))}: {describe_choice(estimate)}")
        mesh = MeshConfig(**estimate.mesh)
        plans.append(plan(estimate.config, topology, mesh, devices=devices))
    return sorted(plans, key=lambda one: (one.fits, _speed(one)), reverse=True), estimates


def combinations(config: TrainConfig, topology: Topology) -> Iterator[tuple[TrainConfig, MeshConfig]]:
    """Everything that is tried: fsdp and tensor in powers of two, tensor no further than the heads."""
    devices = topology.devices
    powers = [1 << power for power in range(devices.bit_length()) if devices % (1 << power) == 0]
    for tensor in powers:
        if config.model.heads % tensor or tensor > 16:
            continue
        for fsdp in powers:
            if devices % (tensor * fsdp) or config.model.width % fsdp:
                continue
            mesh = MeshConfig(devices // (tensor * fsdp), fsdp, tensor)
            for remat in (False, True):
                model = config.model.replace(remat=remat)
                for factor in BATCH_FACTORS:
                    for accumulate in ACCUMULATE:
                        batch = config.batch_size * factor
                        if batch % (mesh.data * mesh.fsdp * accumulate):
                            continue
                        yield config.replace(model=model, batch_size=batch, accumulate=accumulate), mesh


def describe_choice(plan: Plan) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    remat = "on" if plan.config.model.remat else "off"
    return f"mesh {mesh}, remat {remat}, batch {plan.config.batch_size}, accumulate {plan.config.accumulate}"


def _speed(plan: Plan) -> float:
    return plan.tokens_per_second or -math.inf
