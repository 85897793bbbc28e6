"""What a run costs, said where it is known: memory from the shapes at the start and from the compiler after the first
step, time from the measured rate after some more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from gato.data_pipelines.durations import duration
from gato.model.attention import DESCRIPTIONS, fused_in
from gato.training.step import TrainState

MEASURED_STEPS = 10  # after the first one: the rate that the run's time is told by


def device_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of arrays (or of shapes with shardings): its shards of every leaf."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a step runs, as XLA has planned them.

    Attributes:
      arguments: state and batch. outputs: the new state and the metrics. aliased: of the outputs, what takes the place
        of an argument. program: the code.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


def compiled_memory(compiled: Any) -> Memory | None:
    """Of a compiled program; None where the platform does not say."""
    stats = compiled.memory_analysis()
    return stats and Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )


def state_line(state: TrainState, mesh: Mesh) -> str:
    """Where the run runs, and the memory of its state on each device; what a step needs beside it comes later."""
    device, processes = mesh.devices.flat[0], jax.process_count()
    parameters, optimizer = device_bytes(state.params), device_bytes(state.opt_state)
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return (
        f"{mesh.size} x {device.device_kind} in {processes} process{'es' if processes > 1 else ''} (mesh: {axes}); "
        f"memory of each: {amount(parameters)} of parameters and {amount(optimizer)} of optimizer state, and what a "
        "step computes with"
    )


def step_line(step: Callable[..., Any], state: TrainState, batch: Mapping[str, jax.Array]) -> str | None:
    """The memory of a device as the compiler planned it for a jitted `step` that ran with such arguments before, and a
    warning if the program lost the fused attention kernel that was chosen.

    JAX keeps what it compiled, so nothing is compiled again here. ``None`` where there is nothing to say.
    """
    lowered = step.lower(state, batch)  # type: ignore[attr-defined]
    compiled = lowered.compile()
    said = [line for line in (_memory_line(compiled), _kernel_line(lowered, compiled)) if line]
    return "\n".join(said) or None


def _kernel_line(lowered: Any, compiled: Any) -> str | None:
    chosen = fused_in(lowered.as_text())
    lost = chosen - fused_in(compiled.as_text()) if chosen else ()
    if not lost:
        return None
    names = ", ".join(DESCRIPTIONS[backend] for backend in sorted(lost))
    return f"WARNING: not in the compiled step, although chosen: {names}"


def _memory_line(compiled: Any) -> str | None:
    memory = compiled_memory(compiled)
    if memory is None:
        return None
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return (
        f"memory of a device as compiled: {amount(memory.total)}{f' of {amount(limit)}' if limit else ''}, "
        f"of which {amount(memory.temporaries)} to compute with"
    )


def time_line(seconds: float, steps: int, all_steps: int, left: int) -> str:
    """What the whole run takes if every step takes as long as the `steps` that took `seconds`."""
    rate = seconds / steps
    return (
        f"{rate:.3g} s a step, measured over {steps}: all {all_steps:,} take {duration(rate * all_steps)}, "
        f"the {left:,} left {duration(rate * left)}"
    )


def amount(size: float) -> str:
    """Bytes for people: ``1.93 GiB``."""
    power = next((power for power in range(4) if size < 1000 * 1024**power), 4)
    return f"{size / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
