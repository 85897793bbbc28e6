"""Figures of accelerators, from their vendors' data sheets: the one table for peak rates, memories and networks.

Google: cloud.google.com/tpu/docs/v3, /v4, /v5e, /v5p, /v6e. A link's bandwidth is a chip's bidirectional interconnect
bandwidth, or, on the older pages, the pod's all-reduce bandwidth for each of its chips, over both directions and all
its links. NVIDIA: data sheets of the A100 80GB, H100 (SXM, PCIe, NVL), H200 (SXM, NVL) and B200; the dense rates,
without sparsity; one 400 Gb/s network card for each GPU, as in the vendor's own DGX machines (200 beside the A100). The
PCIe and NVL cards of a node talk over PCIe 5.0 here, since their bridges join only two or four of them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

GIB = 1 << 30
GB = 10**9
# Of a GPU's memory, what a run takes that is told so by XLA_CLIENT_MEM_FRACTION (docs/pods.md; launch/clusters/slurm.sh
# does); by itself JAX takes 0.75. The rest is for what allocates beside it: NCCL, cuDNN, the driver.
GPU_FRACTION = 0.9


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one *device*, as JAX counts them, can do; on a TPU v3 that is one of a chip's two cores.

    Attributes:
      kinds: `device_kind` of JAX contains one of these.
      peak_flops: dense bfloat16, FLOP/s.
      memory: bytes, of which the TPU compiler keeps a little for itself (it says 15.75 GiB of a v5e); see `limit`.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s in one direction: of one of a chip's links to its neighbours (TPU), or of all links of a
        GPU to the others of its node.
      node_bandwidth: bytes/s in one direction between nodes, for each GPU; 0 where there are none (TPU slices).
      dimensions: of the TPU's torus; 0 for GPUs.
      devices: on one chip.
      full_ring: a torus dimension of at least so many chips is closed to a ring.
    """

    name: str
    vendor: Literal["Google", "NVIDIA"]
    kinds: tuple[str, ...]
    peak_flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    node_bandwidth: float = 0.0
    dimensions: int = 0
    devices: int = 1
    full_ring: int = 0

    @property
    def limit(self) -> int:
        """Bytes that a step may need."""
        return self.memory if self.vendor == "Google" else int(GPU_FRACTION * self.memory)

    def peak(self, dtype: str) -> float:
        """FLOP/s of products of this dtype at XLA's default precision: those of float32 are computed in bfloat16 on a
        TPU, and in TF32 on these GPUs, at half the rate."""
        return self.peak_flops / 2 if dtype == "float32" and self.vendor == "NVIDIA" else self.peak_flops


# GPUs' memory is what their drivers report, rounded down: more than the decimal GB of their names.
# Order matters for `find`: the first hit wins, and "TPU v5" is also the start of "TPU v5 lite", "H100" of "H100 NVL".
CHIPS: tuple[Chip, ...] = (
    Chip("v3", "Google", ("TPU v3",), 61.5e12, 16 * GIB, 450 * GB, 83 * GB, 0, 2, devices=2, full_ring=32),
    Chip("v4", "Google", ("TPU v4",), 275e12, 32 * GIB, 1200 * GB, 45 * GB, 0, 3, full_ring=4),
    Chip("v5e", "Google", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819 * GB, 50 * GB, 0, 2, full_ring=16),
    Chip("v5p", "Google", ("TPU v5",), 459e12, 95 * GIB, 2765 * GB, 100 * GB, 0, 3, full_ring=4),
    Chip("v6e", "Google", ("TPU v6",), 918e12, 32 * GIB, 1640 * GB, 100 * GB, 0, 2, full_ring=16),
    Chip("a100", "NVIDIA", ("A100",), 312e12, 79 * GIB, 2039 * GB, 300 * GB, 25 * GB),
    Chip("h100-pcie", "NVIDIA", ("H100 PCIe",), 756e12, 79 * GIB, 2000 * GB, 64 * GB, 50 * GB),
    Chip("h100-nvl", "NVIDIA", ("H100 NVL",), 835e12, 93 * GIB, 3900 * GB, 64 * GB, 50 * GB),
    Chip("h100", "NVIDIA", ("H100",), 989e12, 79 * GIB, 3350 * GB, 450 * GB, 50 * GB),
    Chip("h200-nvl", "NVIDIA", ("H200 NVL",), 835e12, 140 * GIB, 4800 * GB, 64 * GB, 50 * GB),
    Chip("h200", "NVIDIA", ("H200",), 989e12, 140 * GIB, 4800 * GB, 450 * GB, 50 * GB),
    Chip("b200", "NVIDIA", ("B200",), 2250e12, 178 * GIB, 8000 * GB, 900 * GB, 50 * GB),
)


def find(device_kind: str) -> Chip | None:
    """The chip of a JAX device, by its `device_kind`; None where it is not known."""
    kind = device_kind.lower()
    return next((chip for chip in CHIPS if any(name.lower() in kind for name in chip.kinds)), None)
