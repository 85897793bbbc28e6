"""Forward and backward pass of one layer's attention: every backend of this machine against the plain square of scores.

python benchmarks/attention.py [--preset gato_79m] [--rows 2] [--length 1024] [--dtype float32] [--block 128]
    [--repeats 5] [--json FILE]

Rows hold four segments each. Everything runs in turns in one process and the best time of each is compared: other
programs can only make a run longer. On a CPU everything runs on one thread of one core. Temporary memory is what the
compiled program allocates besides its arguments and results. The difference is that of the gradients from the square's,
in units of each one's largest number: on a chip where a fused kernel runs for the first time, look there first. On a
GPU with bfloat16 there is one more line, cudnn: JAX's public attention function with a mask, for comparison.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

# One thread: before JAX reads its flags.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1")
).strip()
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np
from result_file import write_result

from gato.model import attention
from gato.model.config import ModelConfig
from gato.model.presets import preset

SEGMENTS = 4


def square(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, position: Any) -> jax.Array:
    """All scores of a row at once, the forbidden ones masked: what most implementations do."""
    index = jnp.arange(q.shape[2])
    distance = index[:, None] - index
    scores = jnp.einsum("bhik,bhjk->bhij", q, k, preferred_element_type=jnp.float32)
    if position is not None:
        terms = (position.queries_BHLK, position.keys_HMK[:, ::-1])
        by_distance = jnp.einsum("bhik,hmk->bhim", *terms, preferred_element_type=jnp.float32)
        padded = jnp.pad(by_distance, ((0, 0), (0, 0), (0, 0), (1, 0)))  # Dai et al. 2019, appendix B
        scores += padded.reshape(*padded.shape[:2], padded.shape[3], -1)[:, :, 1:].reshape(scores.shape)
    allowed = (segments[:, None, :, None] == segments[:, None, None, :]) & (distance >= 0)
    weights = jax.nn.softmax(jnp.where(allowed, scores * q.shape[-1] ** -0.5, attention.MASKED), axis=-1)
    return jnp.einsum("bhij,bhjk->bhik", weights.astype(v.dtype), v)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, position: Any) -> jax.Array:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation="cudnn").swapaxes(1, 2)


def backends(config: ModelConfig, block: int) -> dict[str, Callable[..., jax.Array]]:
    platform = attention.platform(None)
    names: list[attention.Backend] = ["heads", "blocks"] if platform == "cpu" else ["blocks"]
    kernel = attention.fused_kernel(config, platform)
    found: dict[str, Callable[..., jax.Array]] = {"square": square}
    if kernel == "triton":
        found["cudnn"] = cudnn
    names += [kernel] if kernel else []
    return found | {name: functools.partial(attention.run, block=block, backend=name) for name in names}


class Case:
    """Both passes of one backend, compiled."""

    def __init__(self, function: Callable[..., jax.Array], arguments: tuple[Any, ...], weight: jax.Array) -> None:
        def loss(arrays: Any, segments: jax.Array) -> jax.Array:
            *qkv, position = arrays
            return (function(*qkv, segments, position).astype(jnp.float32) * weight).sum()

        *qkv, segments, position = arguments
        self._arguments = ((*qkv, position), segments)
        self._run = jax.jit(jax.grad(loss)).lower(*self._arguments).compile()
        self.temporary = self._run.memory_analysis().temp_size_in_bytes
        self.best = float("inf")
        self.gradients: Any = None

    def run(self) -> None:
        began = time.perf_counter()
        self.gradients = jax.block_until_ready(self._run(*self._arguments))
        self.best = min(self.best, time.perf_counter() - began)


def difference(gradients: Any, others: Any) -> float:
    def one(a: jax.Array, b: jax.Array) -> float:
        b = b.astype(jnp.float32)
        return float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max())

    return max(jax.tree.leaves(jax.tree.map(one, gradients, others)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gato_79m")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    config = preset(args.preset)
    rng = np.random.default_rng(0)
    shape = (args.rows, config.heads, args.length, config.head_dim)
    q, k, v, queries, weight = (jnp.asarray(rng.normal(size=shape), args.dtype) for _ in range(5))
    keys = jnp.asarray(rng.normal(size=shape[1:]), args.dtype)
    segments = jnp.tile(jnp.arange(args.length) * SEGMENTS // args.length, (args.rows, 1))
    device = jax.devices()[0].device_kind
    heads = f"{config.heads} heads of {config.head_dim}"
    print(f"one layer, {args.rows} x {args.length} tokens, {heads}, {args.dtype} ({device})")
    print("position        backend          seconds  against square  temporary MB  difference")
    rows: list[dict[str, Any]] = []
    for scheme in ("rope", "transformer_xl"):
        position = attention.Position(queries, keys) if scheme == "transformer_xl" else None
        found = backends(config.replace(position=scheme, dtype=args.dtype), args.block)
        cases = {name: Case(function, (q, k, v, segments, position), weight) for name, function in found.items()}
        for turn in range(args.repeats + 1):
            for case in cases.values():
                case.run()
                if not turn:  # to warm up
                    case.best = float("inf")
        for name, case in cases.items():
            row = {
                "position": scheme,
                "backend": name,
                "seconds": case.best,
                "speed_against_square": cases["square"].best / case.best,
                "temporary_bytes": case.temporary,
                "difference": difference(case.gradients, cases["square"].gradients),
            }
            rows.append(row)
            ratio, memory = row["speed_against_square"], case.temporary / 1e6
            print(
                f"{scheme:14}  {name:15}  {case.best:7.4f}  {ratio:13.2f}x  {memory:12.1f}  {row['difference']:10.1e}"
            )
    write_result(args.json, rows, ("jax", "jaxlib", "numpy"), device=device, shape=shape, dtype=args.dtype)


if __name__ == "__main__":
    main()
