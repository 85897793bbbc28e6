"""Plans of the shipped configurations on TPU slices and GPU nodes: what `gato plan` says of each, in one table.

    python benchmarks/plan.py [--json FILE] [--markdown FILE] [--only TEXT]

Nothing runs on a TPU or a GPU: memory and collectives are the compiler's (for GPUs, if JAX's CUDA plugin is installed;
else they are estimates), and times are a model. A case takes minutes to compile; rows that FILE holds already are kept,
so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from gato.launch.config import load_config, train_config, without_data
from gato.planning import report, topology
from gato.planning.plan import make_plan
from gato.training.config import MeshConfig

TOPOLOGIES = ("v3:16x16", "v4:8x8x4", "v5e:16x16", "v5p:8x8x4", "v6e:16x16")
FSDP = {"gato_1_2b": 8, "gato_364m": 4, "gato_79m": 1}
# (configuration, topology, fsdp, tensor, overrides); what is left of the devices is data.
CASES = [
    *((name, where, fsdp, 1, ()) for name, fsdp in FSDP.items() for where in TOPOLOGIES),
    ("gato_1_2b", "v5e:16x16", 8, 1, ("model.position=rope",)),
    *(("gato_1_2b", where, FSDP["gato_1_2b"], 1, ("model.attention=fused",)) for where in TOPOLOGIES),
    ("gato_79m", "v5e:16x16", 1, 1, ("model.attention=fused",)),
    ("gato_7b", "v5e:16x16", 8, 1, ()),
    ("gato_7b", "v5e:16x16", 64, 1, ()),
    ("gato_7b", "v5e:16x16", 64, 4, ()),
    *(("gato_1_2b", where, 8, 1, ()) for where in ("a100:32x8", "h100:32x8", "h200:4x8")),
    *((name, "h200:1x8", 1, 1, ()) for name in ("gato_364m", "gato_79m")),
    ("gato_7b", "h100:32x8", 8, 1, ()),
    *(("gato_1_2b", "h200:4x8", 8, 1, (change,)) for change in ("model.attention=fused", "model.position=rope")),
    *(("gato_79m", "h200:1x8", 1, 1, (change,)) for change in ("model.attention=fused", "model.position=rope")),
]
COLUMNS = (
    *("configuration", "slice", "mesh (data x fsdp x tensor)", "GiB of a device", "sent by a device, GiB a step"),
    *("step, s", "MFU", "524 B tokens, days", "compiled in, s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if options.json and options.json.exists():
        rows = {row["case"]: row for row in json.loads(options.json.read_text())["rows"]}
    for name, where, fsdp, tensor, overrides in CASES:
        case = " ".join([name, where, f"fsdp={fsdp}", f"tensor={tensor}", *overrides])
        if options.only not in case or case in rows:
            continue
        with without_data():
            config = train_config(load_config(name, overrides))
        plan = make_plan(config, topology.parse(where), MeshConfig(-1, fsdp, tensor))
        print(report.to_text(plan, name), flush=True)
        if plan.compiled:
            print(f"compiled in {plan.needs.compile_seconds:.0f} s\n", flush=True)
        rows[case] = {"case": case} | report.to_json(plan, name)
        jax.clear_caches()  # a program of a pod is large
        if options.json:
            options.json.write_text(json.dumps(_result(rows), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(_page(list(rows.values())))


def _result(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            **_versions("jaxlib", "flax"),
        },
        "command": " ".join(sys.argv),
        "rows": list(rows.values()),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of these, of JAX, and of the compilers that are installed."""
    found = {}
    for package in ("jax", *packages, "libtpu", "jax-cuda13-plugin"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _page(rows: list[dict[str, Any]]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    lines = [
        "# Plans for TPU slices and GPU nodes",
        "",
        "Made by `python benchmarks/plan.py --json plans.json --markdown docs/results/plan.md` with",
        f"{versions}, on a CPU.",
        "**Nothing here ran on a TPU or a GPU.** Memory and bytes sent are what XLA's compiler for that device says",
        "(GPUs: without autotuning and libraries' workspaces; where the last column says estimated, from the shapes);",
        "times, rates and MFU (of useful operations) are a model (data-sheet rates, from everything at once to nothing",
        "at once); [plan.md](../plan.md) says how to read them. A device is",
        "a chip; on v3, one of a chip's two cores. Batches are 512 x 1,024 tokens, remat full. *fused*: the kernel for",
        "Transformer-XL positions, which is taken only where `model.attention=fused` asks for it.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    for row in rows:
        memory, seconds = row["bytes_per_chip"], row["step_seconds"]
        mesh = " x ".join(str(size) for size in row["mesh"].values())
        need = f"{memory['total'] / 2**30:.2f} of {memory['limit'] / 2**30:.1f}"
        name = f"{row['config']}, {row['position']}" + ", fused" * ("attention=fused" in row["case"])
        if not row["fits"] or seconds is None:
            cells = [name, row["topology"], mesh, f"{need}: **does not fit**", "", "", "", ""]
        else:
            sent = sum(one["bytes"] for one in row["collectives"]) / 2**30
            low, high = (row["mfu"] * seconds["expected"] / seconds[end] for end in ("slowest", "fastest"))
            cells = [
                *(name, row["topology"], mesh, need, f"{sent:.2f}"),
                f"{seconds['expected']:.3f} ({seconds['fastest']:.3f} to {seconds['slowest']:.3f}), {seconds['bound']}",
                f"{row['mfu']:.0%} ({low:.0%} to {high:.0%})",
                f"{row['days']:.2f}",
            ]
        compiled_in = "estimated" if row["compile_seconds"] is None else format(row["compile_seconds"], ".0f")
        lines.append(f"| {' | '.join([*cells, compiled_in])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
