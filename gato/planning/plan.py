"""One plan: a training step on a topology, with what it needs of memory, arithmetic and network, and how long it takes.

What is compiled: memory, collectives. What is counted: FLOPs. What is a model: every time, and what follows from times.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from gato import sharding
from gato.planning import analytic, network, traffic
from gato.planning import collectives as reader
from gato.planning.collectives import Collective
from gato.planning.compiled_step import Memory, abstract_arguments, compile_step, plan_steps
from gato.planning.hlo import parse
from gato.planning.paper_rows import capacity_shares
from gato.planning.topology import Topology, describe
from gato.training.config import MeshConfig, TrainConfig
from gato.training.flops import forward_flops, train_flops

PAPER_TOKENS = 524e9  # 1,000,000 steps of 512 rows of 1,024 tokens


@dataclasses.dataclass(frozen=True)
class Seconds:
    """A model of one step: the time that arithmetic, memory and network each need at the data sheet's rates.

    The step takes at least the longest of the three (everything at once) and, at these rates, at most their sum
    (nothing at once); `expected` is the middle.
    """

    compute: float
    memory: float
    network: float

    @property
    def fastest(self) -> float:
        return max(self.compute, self.memory, self.network)

    @property
    def slowest(self) -> float:
        return self.compute + self.memory + self.network

    @property
    def expected(self) -> float:
        return (self.fastest + self.slowest) / 2

    @property
    def bound(self) -> str:
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    compiled: whether memory and collectives are the compiler's; else they are estimates too.
    limit: bytes of a device's memory.
    target_share, patch_share: per token, that a device has room for.
    collectives: None if the step does not fit, when the compiler gives no program.
    seconds: None likewise.
    unknown_loops: of the program, which are counted once because it does not say how often they run.
    triangular_loops: of the program, which are taken for causal attention's, see `hlo`.
    """

    config: TrainConfig
    topology: Topology
    mesh: dict[str, int]
    compiled: bool
    parameters: int
    memory: Memory | None
    needed: int
    limit: int
    target_share: float
    patch_share: float
    flops: float
    executed_flops: float
    collectives: list[Collective] | None
    seconds: Seconds | None
    compile_seconds: float | None
    unknown_loops: int = 0
    triangular_loops: int = 0

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.needed <= self.limit

    @property
    def tokens(self) -> int:
        """Of one step, padding included."""
        return self.config.batch_size * self.config.length

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds.expected if self.seconds else None

    def mfu(self, seconds: float) -> float:
        """Share of the data sheet's peak, without what is computed twice, of a step of so many seconds."""
        return self.flops / seconds / (self.topology.chip.peak_flops * self.topology.devices)


def make_plan(
    config: TrainConfig,
    topology: Topology,
    mesh: MeshConfig,
    *,
    target_share: float | None = None,
    patch_share: float | None = None,
    devices: Sequence[Any] | None = None,
    compiled: bool = True,
) -> Plan:
    """The plan of a run of `config` on `topology`.

    Args:
      mesh: takes the place of the configuration's.
      target_share, patch_share: targets and patches per token that a device has room for; None: as many as the paper's
        mixture needs (`paper_rows`).
      devices: `describe(topology)`, if it is at hand.
      compiled: False estimates everything from the shapes, which is all that can be done for GPUs.

    Raises:
      GatoError: topology, mesh and batch do not fit each other, or libtpu is not installed.
    """
    config = config.replace(mesh=mesh)
    compiled = compiled and topology.is_tpu
    if compiled:
        devices = describe(topology) if devices is None else devices
        real: Any = sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor, devices=devices)
        sizes = dict(real.shape)
    else:
        sizes = sharding.mesh_sizes(mesh.data, mesh.fsdp, mesh.tensor, topology.devices)
        real = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3)
    steps = plan_steps(config, real)
    rows = config.batch_size // steps.groups
    target_capacity, patch_capacity = capacity_shares(rows, steps.groups)
    target_share = target_capacity if target_share is None else target_share
    patch_share = patch_capacity if patch_share is None else patch_share
    targets, patches = (_whole(share * rows * config.length) for share in (target_share, patch_share))
    state, batch = abstract_arguments(config, steps, targets, patches)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    counted = (config.model, config.batch_size, config.length, targets * steps.groups, patches * steps.groups)
    flops, executed = train_flops(*counted), _executed_flops(*counted)
    if compiled:
        step = compile_step(config, steps, targets, patches)
        memory, needed, compile_seconds = step.memory, step.needed or 0, step.seconds
        found, moved, unknown, triangular = None, 0, 0, 0
        if memory is not None:
            program = parse(step.text)
            found, moved = reader.collectives(program, sizes), traffic.memory_bytes(program)
            unknown, triangular = program.unknown_loops, program.triangular_loops
    else:
        memory, compile_seconds = analytic.memory(config, sizes, state, batch, targets), None
        needed = memory.total
        found = analytic.collectives(config, sizes, parameters)
        moved, unknown, triangular = analytic.memory_traffic(config, sizes, state), 0, 0
    seconds = None
    if found is not None:
        chip = topology.chip

        def bandwidth(axis: str) -> float:
            names = axis.split("+")
            if not topology.is_tpu:
                return network.gpu_bandwidth(topology, sizes, names)
            if not compiled:
                return chip.link_bandwidth / chip.devices
            return network.tpu_bandwidth(topology, real.devices, [list(sizes).index(name) for name in names])

        seconds = Seconds(
            compute=executed / topology.devices / chip.peak_flops,
            memory=moved / chip.memory_bandwidth,
            network=_network_seconds(found, bandwidth),
        )
    return Plan(
        config=config,
        topology=topology,
        mesh=sizes,
        compiled=compiled,
        parameters=parameters,
        memory=memory,
        needed=needed,
        limit=topology.chip.memory,
        target_share=target_share,
        patch_share=patch_share,
        flops=flops,
        executed_flops=executed,
        collectives=found,
        seconds=seconds,
        compile_seconds=compile_seconds,
        unknown_loops=unknown,
        triangular_loops=triangular,
    )


def _whole(size: float) -> int:
    """Static sizes are multiples of 64, as the loader makes them."""
    return 64 * max(1, math.ceil(size / 64))


def _executed_flops(model: Any, rows: int, length: int, targets: int, patches: int) -> float:
    """Of a step, with what `remat` lets the backward pass compute again: all of the blocks, or their attention."""
    parts = forward_flops(model, rows, length, targets, patches)
    again = {"none": (), "dots": ("scores",), "full": ("projections", "scores", "feed_forward")}[model.remat]
    return 3.0 * sum(parts.values()) + sum(parts[name] for name in again)


def _network_seconds(found: list[Collective], bandwidth: Callable[[str], float]) -> float:
    return sum(one.bytes / bandwidth(one.axis) for one in found)
