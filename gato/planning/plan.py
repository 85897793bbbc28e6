"""One plan: a training step on a topology, with what it needs of memory, arithmetic and network, and how long it takes.

What is compiled: memory, collectives. What is counted: FLOPs. What is a model: every time, and what follows from times.
Useful FLOPs are for the targets and patches that there are, in the mean, as the trainer counts them for its MFU;
executed ones (`executed`) are for all that a device has room for, with what is computed again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from gato import sharding
from gato.data_pipelines.loader import static_size
from gato.model import attention
from gato.model.attention import Backend, choose, platform
from gato.planning import analytic, network, traffic
from gato.planning import collectives as reader
from gato.planning.collectives import Collective
from gato.planning.compiled_step import abstract_arguments, compile_step, plan_steps
from gato.planning.executed import executed_flops
from gato.planning.hlo import parse
from gato.planning.paper_rows import Shares, capacity_shares, mean_shares
from gato.planning.topology import Topology, describe
from gato.training.config import MeshConfig, TrainConfig
from gato.training.cost import Memory
from gato.training.flops import train_flops
from gato.training.steps import Steps

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
class Needs:
    """Of one device in a step, compiled or estimated.

    Attributes:
      memory, collectives: None if the step does not fit, when the compiler gives no program.
      bytes: of memory, known also then.
      traffic: bytes between the device and its memory.
      unknown_loops: of the program, which are counted once because it does not say how often they run.
      triangular_loops: of the program, which are taken for causal attention's, see `hlo`.
    """

    memory: Memory | None
    bytes: int
    collectives: list[Collective] | None
    traffic: int
    compile_seconds: float | None = None
    unknown_loops: int = 0
    triangular_loops: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
    attention: which kernel computes it, in words.
    compiled: whether `needs` are the compiler's; else they are estimates too.
    limit: bytes of a device's memory that a step may need.
    room: for targets and patches, of a device. mean: what there is of them.
    useful_flops, executed_flops: of all devices; see above.
    seconds: None if the step does not fit.
    error: what the compiler said, where it failed and not for the memory; then `needs` are the estimate's.
    """

    config: TrainConfig
    topology: Topology
    mesh: dict[str, int]
    attention: str
    compiled: bool
    parameters: int
    needs: Needs
    limit: int
    room: Shares
    mean: Shares
    useful_flops: float
    executed_flops: float
    seconds: Seconds | None
    error: str | None = None

    @property
    def fits(self) -> bool:
        return self.error is None and self.needs.memory is not None and self.needs.bytes <= self.limit

    @property
    def tokens(self) -> int:
        """Of one step, padding included."""
        return self.config.batch_size * self.config.length

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds.expected if self.seconds else None

    def mfu(self, seconds: float) -> float:
        """Useful share of the data sheet's bfloat16 peak, of a step of so many seconds."""
        return self.useful_flops / seconds / (self.topology.chip.peak_flops * self.topology.devices)


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
      target_share, patch_share: targets and patches per token that there are, and that a device has room for; None: the
        paper's mixture (`paper_rows`), its means, and as much room as its fullest rows need.
      devices: `describe(topology)`, if it is at hand.
      compiled: False estimates everything from the shapes; so it is where the topology is not `compiled`.

    Raises:
      GatoError: topology, mesh and batch do not fit each other, the compiler is not installed, or training would refuse
        the model there; `CompilerError` where the compiler fails, and not for the memory.
    """
    config = config.replace(mesh=mesh)
    compiled = compiled and topology.compiled
    steps = plan_steps(config, _devices_mesh(topology, mesh, devices) if compiled else _abstract_mesh(topology, mesh))
    backend = choose(config.model, platform(steps.mesh))  # refuses what training would refuse, also for an estimate
    rows = config.batch_size // steps.groups
    room, mean = (
        Shares(
            shares.targets if target_share is None else target_share,
            shares.patches if patch_share is None else patch_share,
        )
        for shares in (capacity_shares(rows, steps.groups), mean_shares())
    )
    targets, patches = (static_size(share * rows * config.length) for share in room)
    parameters = _parameters(steps)
    if compiled:
        needs = _compiled(config, steps, targets, patches)
    else:
        needs = _estimated(config, topology, steps, backend, targets, patches)
    executed = executed_flops(config, backend, targets * steps.groups, patches * steps.groups)
    there = (round(share * config.batch_size * config.length) for share in mean)
    return Plan(
        config=config,
        topology=topology,
        mesh=dict(steps.mesh.shape),
        attention=attention.describe(config.model, platform(steps.mesh)),
        compiled=compiled,
        parameters=parameters,
        needs=needs,
        limit=topology.chip.limit,
        room=room,
        mean=mean,
        useful_flops=train_flops(config.model, config.batch_size, config.length, *there),
        executed_flops=executed,
        seconds=_seconds(config, topology, steps.mesh, needs, executed),
    )


def _devices_mesh(topology: Topology, mesh: MeshConfig, devices: Sequence[Any] | None) -> Mesh:
    devices = describe(topology) if devices is None else devices
    return sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor, devices=devices)


def _abstract_mesh(topology: Topology, mesh: MeshConfig) -> Any:
    sizes = sharding.mesh_sizes(mesh.data, mesh.fsdp, mesh.tensor, topology.devices)
    device = AbstractDevice(device_kind=topology.chip.kinds[0], num_cores=1, platform=topology.platform)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3, abstract_device=device)


def _parameters(steps: Steps) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(steps.create_state).params))


def _compiled(config: TrainConfig, steps: Steps, targets: int, patches: int) -> Needs:
    step = compile_step(config, steps, targets, patches)
    if step.memory is None:
        return Needs(None, step.needed, None, 0, step.seconds)
    program = parse(step.text)
    return Needs(
        memory=step.memory,
        bytes=step.needed,
        collectives=reader.collectives(program, dict(steps.mesh.shape)),
        traffic=traffic.memory_bytes(program),
        compile_seconds=step.seconds,
        unknown_loops=program.unknown_loops,
        triangular_loops=program.triangular_loops,
    )


def _estimated(
    config: TrainConfig, topology: Topology, steps: Steps, backend: Backend, targets: int, patches: int
) -> Needs:
    state, batch = abstract_arguments(config, steps, targets, patches)
    sizes = dict(steps.mesh.shape)
    memory = analytic.memory(config, sizes, backend, topology.platform, state, batch, targets, patches)
    return Needs(
        memory=memory,
        bytes=memory.total,
        collectives=analytic.collectives(config, sizes, _parameters(steps)),
        traffic=analytic.memory_traffic(config, sizes, backend, topology.platform, state, patches),
    )


def _seconds(config: TrainConfig, topology: Topology, mesh: Any, needs: Needs, flops: float) -> Seconds | None:
    if needs.collectives is None:
        return None
    chip = topology.chip
    return Seconds(
        compute=flops / topology.devices / chip.peak(config.model.dtype),
        memory=needs.traffic / chip.memory_bandwidth,
        network=sum(one.bytes / _bandwidth(topology, mesh, one.axis.split("+")) for one in needs.collectives),
    )


def _bandwidth(topology: Topology, mesh: Any, axes: list[str]) -> float:
    """Bytes/s that a device can send along these axes of the mesh."""
    if not topology.is_tpu:
        return network.gpu_bandwidth(topology, mesh.shape, axes)
    if not isinstance(mesh, Mesh):  # nobody knows where on the torus its devices would be
        return topology.chip.link_bandwidth / topology.chip.devices
    return network.tpu_bandwidth(topology, mesh.devices, [mesh.axis_names.index(axis) for axis in axes])
