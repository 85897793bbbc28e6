"""Plans as JSON and as text. Whatever is a model and not a measurement is called one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gato.chips import GIB, GPU_FRACTION
from gato.planning.collectives import by_kind_and_axis
from gato.planning.plan import PAPER_TOKENS, Plan
from gato.planning.topology import how_to_compile

DAY = 86_400
MODEL_NOTE = "a model, not a measurement: data-sheet rates; the step is never faster than its longest part"


def to_json(plan: Plan, name: str, budget: float = PAPER_TOKENS) -> dict[str, Any]:
    """The plan for other programs; docs/architecture.md names the keys.

    Args:
      name: of the configuration. budget: tokens of the run that `days` is about.
    """
    memory, seconds = plan.needs.memory, plan.seconds
    return {
        "config": name,
        "topology": plan.topology.name,
        "devices": plan.topology.devices,
        "mesh": plan.mesh,
        "batch_size": plan.config.batch_size,
        "accumulate": plan.config.accumulate,
        "remat": plan.config.model.remat,
        "position": plan.config.model.position,
        "attention": plan.attention,
        "parameters": plan.parameters,
        "targets_per_token": {"mean": plan.mean.targets, "room": plan.room.targets},
        "patches_per_token": {"mean": plan.mean.patches, "room": plan.room.patches},
        "bytes_per_chip": {
            "arguments": memory.arguments if memory else None,
            "temporaries": memory.temporaries if memory else None,
            "outputs": memory.outputs if memory else None,
            "aliased": memory.aliased if memory else None,
            "program": memory.program if memory else None,
            "total": plan.needs.bytes,
            "limit": plan.limit,
            "device": _device(plan),
        },
        "fits": plan.fits,
        "useful_flops_per_step": plan.useful_flops,
        "executed_flops_per_step": plan.executed_flops,
        "collectives": [
            {"kind": one.kind, "axis": one.axis, "devices": one.group, "bytes": one.bytes, "runs": one.runs}
            for one in by_kind_and_axis(plan.needs.collectives or [])
        ],
        "step_seconds": seconds
        and {
            "compute": seconds.compute,
            "memory": seconds.memory,
            "network": seconds.network,
            "fastest": seconds.fastest,
            "expected": seconds.expected,
            "slowest": seconds.slowest,
            "bound": seconds.bound,
        },
        "tokens_per_second": plan.tokens_per_second,
        "mfu": seconds and plan.mfu(seconds.expected),
        "budget_tokens": budget,
        "days": budget / plan.tokens_per_second / DAY if plan.tokens_per_second else None,
        "compiled": plan.compiled,
        "compile_seconds": plan.needs.compile_seconds,
        "error": plan.error,
        "is_a_model": ["step_seconds", "tokens_per_second", "mfu", "days"]
        + ([] if plan.compiled else ["bytes_per_chip", "fits", "collectives"]),
    }


def _device(plan: Plan) -> str:
    return {2: "core, of two on a chip", 1: "chip" if plan.topology.is_tpu else "GPU"}[plan.topology.chip.devices]


def to_text(plan: Plan, name: str, budget: float = PAPER_TOKENS) -> str:
    """The plan for people."""
    config, topology = plan.config, plan.topology
    device = _device(plan).split(",")[0]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    rows = config.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
    lines = [
        f"{name} on {topology.name}: {plan.parameters / 1e6:,.0f}M parameters, {topology.devices} {device}s, "
        f"mesh {mesh}",
        f"batch {config.batch_size} x {config.length} tokens: {rows} rows a part of the batch"
        f"{f', in {config.accumulate} micro-batches' if config.accumulate > 1 else ''}; "
        f"position {config.model.position}, remat {config.model.remat}; room for "
        f"{plan.room.targets:.0%} targets and {plan.room.patches:.0%} patches a token",
        f"attention: {plan.attention}",
        "",
    ]
    if plan.error:
        return "\n".join([*lines, plan.error])
    lines += _memory_lines(plan, device)
    if plan.seconds is None:
        return "\n".join([*lines, "", "nothing more is known of a step that does not fit"])
    return "\n".join([*lines, "", *_collective_lines(plan, device), "", *_time_lines(plan, budget)])


def _memory_lines(plan: Plan, device: str) -> list[str]:
    source = "as compiled by XLA for it" if plan.compiled else "estimated from the shapes; nothing was compiled"
    if plan.compiled and not plan.topology.is_tpu:
        source += ", without autotuning and what libraries take as workspace"
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    total = f"  {'total':<34}{_gib(plan.needs.bytes)} of {_gib(plan.limit).strip()}: {verdict}"
    if not plan.topology.is_tpu:
        total += f" (of all {_gib(plan.topology.chip.memory).strip()} with XLA_CLIENT_MEM_FRACTION={GPU_FRACTION})"
    memory = plan.needs.memory
    if memory is None:
        return [f"memory of a {device} ({source})", total]
    parts = [
        ("state and batch (arguments)", memory.arguments),
        ("new state (outputs)", memory.outputs),
        ("in place of the old one (aliased)", -memory.aliased),
        ("temporaries", memory.temporaries),
        ("program", memory.program),
    ]
    hint = [] if plan.compiled or plan.topology.compiled else [f"  {how_to_compile(plan.topology)}"]
    return [f"memory of a {device} ({source})", *hint, *(f"  {name:<34}{_gib(size)}" for name, size in parts), total]


def _collective_lines(plan: Plan, device: str) -> list[str]:
    source = "read from the compiled program" if plan.compiled else "estimated from the shapes"
    lines = [f"what each {device} sends in a step ({source}; what a loop repeats is counted as often)"]
    for one in by_kind_and_axis(plan.needs.collectives or []):
        lines.append(f"  {one.kind:<20}{one.axis:<12}{_gib(one.bytes)}  in {one.runs:,} among {one.group}")
    if plan.needs.triangular_loops:
        lines.append(
            f"  {plan.needs.triangular_loops} loops over the tiles of causal attention count (n + 1) / 2 turns of n"
        )
    if plan.needs.unknown_loops:
        few = f"{plan.needs.unknown_loops} loops count once, since the program does not say their turns"
        lines.append(f"  TOO LITTLE: {few}")
    return lines if len(lines) > 1 else [*lines, "  nothing"]


def _time_lines(plan: Plan, budget: float) -> list[str]:
    seconds, rate = plan.seconds, plan.tokens_per_second
    assert seconds is not None
    assert rate is not None
    fast, slow = plan.tokens / seconds.fastest, plan.tokens / seconds.slowest
    return [
        f"arithmetic of a step (counted): {plan.useful_flops:.3g} useful FLOPs, for {plan.mean.targets:.0%} targets "
        f"and {plan.mean.patches:.0%} patches a token in the mean;",
        f"  {plan.executed_flops:.3g} executed, for all that there is room for, and for what remat computes again",
        f"time of a step ({MODEL_NOTE})",
        f"  compute {seconds.compute:8.4f} s   memory {seconds.memory:8.4f} s   network {seconds.network:8.4f} s"
        f"   bound by {seconds.bound}",
        f"  expected {seconds.expected:.3f} s, between {seconds.fastest:.3f} s (all at once) and "
        f"{seconds.slowest:.3f} s (one after the other)",
        f"  {rate:,.0f} tokens/s ({slow:,.0f} to {fast:,.0f}), MFU {plan.mfu(seconds.expected):.0%} "
        f"({plan.mfu(seconds.slowest):.0%} to {plan.mfu(seconds.fastest):.0%})",
        f"  {budget / 1e9:,.0f} billion tokens take {budget / rate / DAY:.2f} days "
        f"({budget / fast / DAY:.2f} to {budget / slow / DAY:.2f})",
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:9.3f} GiB"


def ranking(plans: Sequence[Plan], estimates: Sequence[Plan]) -> str:
    """Compiled plans, those that fit by their tokens per second; how many were only estimated."""
    lines = [
        f"{'data x fsdp x tensor':<22}{'remat':<7}{'batch':<7}{'accumulate':<12}{'GiB':>7}{'s/step':>9}{'tokens/s':>12}"
        f"{'MFU':>6}  bound by"
    ]
    for plan in plans:
        mesh = " x ".join(str(size) for size in plan.mesh.values())
        config = plan.config
        head = f"{mesh:<22}{config.model.remat:<7}{config.batch_size:<7}{config.accumulate:<12}"
        head += f"{plan.needs.bytes / GIB:>7.2f}"
        if plan.fits and plan.seconds:
            head += f"{plan.seconds.expected:>9.3f}{plan.tokens_per_second:>12,.0f}"
            head += f"{plan.mfu(plan.seconds.expected):>6.0%}  {plan.seconds.bound}"
        else:
            head += f"  {plan.error or 'does not fit'}"
        lines.append(head)
    kind = "compiled" if any(plan.topology.compiled for plan in plans) else "estimated"
    lines.append(f"{len(plans)} of {len(estimates)} combinations {kind}, the best by estimate; times are {MODEL_NOTE}")
    return "\n".join(lines)
