"""``v5e:16x16``, ``h200:8x8``: which accelerators in which arrangement, and descriptions of such that are not here.

A TPU's arrangement counts chips along each side of the torus; a GPU's counts nodes x GPUs of a node.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any, Literal

from gato.chips import CHIPS, Chip
from gato.data_pipelines.environments.base import install_command
from gato.planning import gpu_target
from gato.tokenizers.errors import GatoError, suggest

# libtpu asks a cloud's metadata service who it is, and one process at a time may load it, unless told otherwise; the
# CUDA plugin refuses machines without a driver.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


class PlanError(GatoError):
    """A topology cannot be had, or a plan asks for something that does not fit it."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Accelerators of one kind.

    Attributes:
      shape: chips along the sides of a torus, or (nodes, GPUs of a node).
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """As JAX counts them: two a chip on TPU v3."""
        return self.chips * self.chip.devices

    @property
    def is_tpu(self) -> bool:
        return self.chip.dimensions > 0

    @property
    def platform(self) -> Literal["tpu", "gpu"]:
        """As JAX calls it."""
        return "tpu" if self.is_tpu else "gpu"

    @property
    def compiled(self) -> bool:
        """Whether plans of it are compiled: those of TPUs always, of GPUs where JAX's CUDA plugin is installed."""
        return self.is_tpu or _installed(CUDA_PLUGINS)


def parse(text: str) -> Topology:
    """Raises `PlanError` for an unknown chip, with a suggestion, and for a shape that is none of this chip's."""
    name, _, sides = text.partition(":")
    known = {chip.name: chip for chip in CHIPS}
    if name not in known:
        raise PlanError(f"--topology={text}: no chip {name!r} is known; {suggest(name, known)}")
    chip = known[name]
    wanted = chip.dimensions or 2
    example = f"{name}:{'x'.join(('8', '8', '4') if wanted == 3 else ('16', '16') if chip.dimensions else ('8', '8'))}"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides) or sides.count("x") + 1 != wanted:
        meaning = f"{wanted} sides of the torus in chips" if chip.dimensions else "nodes x GPUs of a node"
        raise PlanError(f"--topology={text}: write {meaning}, e.g. {example}")
    return Topology(chip, tuple(int(side) for side in sides.split("x")))


def describe(topology: Topology) -> list[Any]:
    """JAX devices of accelerators that this machine does not have; programs can be compiled for them, not run.

    Raises:
      PlanError: libtpu or JAX's CUDA plugin, which hold the compilers, is not installed, or knows no such topology.
    """
    if not _installed(("libtpu",) if topology.is_tpu else CUDA_PLUGINS):
        raise PlanError(f"--topology={topology.name}: {how_to_compile(topology)}")
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        if topology.is_tpu:
            # Both cores of a v4 are one device, as on real ones; libtpu's default here is two.
            options = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
            devices = topologies.get_topology_desc(topology.name, platform="tpu", **options).devices
        else:
            shape = f"1x{'x'.join(map(str, topology.shape))}"  # one network partition of nodes of GPUs
            config = gpu_target.text(topology.chip)
            devices = topologies.get_topology_desc(platform="cuda", topology=shape, target_config=config).devices
    except Exception as error:  # JAX's and the plugin's own, of several types
        compiler = "libtpu" if topology.is_tpu else "the CUDA plugin"
        raise PlanError(f"--topology={topology.name}: {compiler} refuses it: {str(error).splitlines()[0]}") from error
    if len(devices) != topology.devices:
        raise PlanError(
            f"--topology={topology.name}: the compiler describes {len(devices)} devices, expected {topology.devices}"
        )
    return list(devices)


def how_to_compile(topology: Topology) -> str:
    """What to install, in one line."""
    wheel, extra = ("the libtpu wheel", "tpu") if topology.is_tpu else ("JAX's CUDA plugin", "gpu")
    return (
        f"compiling for a {extra.upper()} needs {wheel}, which has its compiler: in the checkout: "
        f"{install_command(extra)} (a large download, no {extra.upper()} needed)"
    )


def _installed(packages: tuple[str, ...]) -> bool:
    return any(importlib.util.find_spec(package) is not None for package in packages)
