"""What XLA's GPU compiler wants to know of a GPU that is not there: the sizes of its multiprocessors, as it finds them
on the device itself.

From NVIDIA's data sheets and its tables of compute capabilities; memory and its rate are `gato.chips`'.
"""

from __future__ import annotations

from typing import NamedTuple

from gato.chips import Chip


class Multiprocessors(NamedTuple):
    """Attributes:
    capability: major number of the compute capability (the minor one is 0 here).
    lanes: float32 units of one. shared: bytes of fast memory of one. cache: bytes, of all. clock: GHz.
    """

    capability: int
    number: int
    lanes: int
    shared: int
    cache: int
    clock: float


KIB, MIB = 1 << 10, 1 << 20
GPUS: dict[str, Multiprocessors] = {
    "a100": Multiprocessors(8, 108, 64, 164 * KIB, 40 * MIB, 1.41),
    "h100-pcie": Multiprocessors(9, 114, 128, 228 * KIB, 50 * MIB, 1.755),
    "h100-nvl": Multiprocessors(9, 132, 128, 228 * KIB, 50 * MIB, 1.785),
    "h100": Multiprocessors(9, 132, 128, 228 * KIB, 50 * MIB, 1.98),
    "h200-nvl": Multiprocessors(9, 132, 128, 228 * KIB, 50 * MIB, 1.785),
    "h200": Multiprocessors(9, 132, 128, 228 * KIB, 50 * MIB, 1.98),
    "b200": Multiprocessors(10, 148, 128, 228 * KIB, 126 * MIB, 1.965),
}


def text(chip: Chip) -> str:
    """XLA's description of a GPU, a ``GpuTargetConfigProto``."""
    gpu = GPUS[chip.name]
    # From 9.0 on JAX compiles for the device's own instructions (sm_90a), as its products of matrices need.
    extension = "ACCELERATED_FEATURES" if gpu.capability >= 9 else "NONE"
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} feature_extension: {extension} }}
  core_count: {gpu.number}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_block_optin: {gpu.shared - KIB}
  l2_cache_size: {gpu.cache}
  device_memory_size: {chip.memory}
  memory_bandwidth: {round(chip.memory_bandwidth)}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "NVIDIA {chip.kinds[0]}"
"""
