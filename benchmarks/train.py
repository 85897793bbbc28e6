"""The training step against the machine's own matmul ceiling, and the sparse head against the dense one.

python benchmarks/train.py [--quick] [--preset gato_79m] [--rows 2] [--length 1024] [--repeats 3] [--json FILE]

On a CPU everything runs on one thread of one core. Ceiling and steps are measured in turns, so that a machine that is
busy or hot slows both, and the best of each is compared: other programs can only make a run longer. FLOPs are counted
analytically (`gato.training.flops`): causal attention once, the backward pass as two forward passes, the head and the
last block's feed-forward only where there is a target. The dense head computes more than that; its useful FLOPs are
the same, and `step_seconds` compares the two.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time
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

from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.tokenizers.layout import KINDS
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.flops import train_flops
from gato.training.loss import LossSums, dense_loss
from gato.training.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer
from gato.training.step import TrainState, batch_loss, make_train_step

CEILING_SIZE = 2048


def make_batch(vocabulary: Vocabulary, rows: int, length: int, share: float) -> dict[str, np.ndarray]:
    """Full rows of one segment without images; every (1 / share)-th token is an action with a target."""
    rng = np.random.default_rng(0)
    shape = (rows, length)
    learned = np.arange(length) % round(1 / share) == 0
    learned[0] = False
    weight = np.tile(learned, (rows, 1)).astype(np.float32)
    ids = rng.integers(0, vocabulary.size, shape, dtype=np.int32)
    targets = np.flatnonzero(weight)
    action = KINDS.index("action")
    return {
        "ids": ids,
        "loss_weight": weight,
        "local_position": np.zeros(shape, np.int16),
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "kinds": np.full(shape, action, np.int8),
        "source": np.zeros(shape, np.int16),
        "target_index": (targets - 1).astype(np.int32),
        "target_ids": ids.reshape(-1)[targets],
        "target_weight": np.ones(len(targets), np.float32),
        "target_kind": np.full(len(targets), action, np.int8),
        "target_source": np.zeros(len(targets), np.int16),
    }


def dense_batch_loss(
    model: GatoModel, vocabulary_size: int, params: Any, batch: Any, rngs: dict[str, jax.Array]
) -> LossSums:
    """What every open Gato does: logits everywhere, masked afterwards."""
    hidden_BLD: Any = model.apply(params, batch, train=True, rngs=rngs)
    return dense_loss(
        lambda hidden: model.apply(params, hidden, method="logits"),
        hidden_BLD,
        batch,
        vocabulary_size=vocabulary_size,
        sources=1,
    )


def ceiling() -> float:
    """FLOP/s of one large float32 matmul."""
    x = _square()
    began = time.perf_counter()
    _matmul(x, x).block_until_ready()
    return 2 * CEILING_SIZE**3 / (time.perf_counter() - began)


@functools.cache
def _square() -> jax.Array:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(CEILING_SIZE, CEILING_SIZE)), jnp.float32)
    _matmul(x, x).block_until_ready()
    return x


_matmul = jax.jit(jnp.matmul)


class Case:
    """One compiled step: a head and a share of targets."""

    def __init__(self, config: ModelConfig, head: str, share: float, rows: int, length: int) -> None:
        vocabulary = Vocabulary()
        self.head, self.share, self.tokens = head, share, rows * length
        self.batch = jax.device_put(make_batch(vocabulary, rows, length, share))
        self.flops = train_flops(config, rows, length, len(self.batch["target_index"]))
        numbers = OptimizerConfig()
        self._optimizer = make_optimizer(numbers, 1_000_000)
        model = GatoModel(config)
        if head == "sparse":
            loss = functools.partial(batch_loss, model, vocabulary_size=vocabulary.size, sources=1)
        else:
            loss = functools.partial(dense_batch_loss, model, vocabulary.size)
        step = make_train_step(loss, self._optimizer, learning_rate_schedule(numbers, 1_000_000), seed=0)
        self._step = jax.jit(step, donate_argnums=0)
        self.best = float("inf")
        self.losses: list[float] = []

    def initial(self, config: ModelConfig) -> TrainState:
        params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
        return TrainState(jnp.int32(0), params, self._optimizer.init(params))

    def run(self, state: TrainState) -> TrainState:
        began = time.perf_counter()
        state, metrics = self._step(state, self.batch)
        self.losses.append(float(metrics.sums.mean()))
        self.best = min(self.best, time.perf_counter() - began)
        return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gato_79m")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two layers, one repeat: under a minute")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    config = preset(args.preset, Vocabulary(), **({"layers": 2} if args.quick else {}))
    repeats = 1 if args.quick else args.repeats
    cases = [Case(config, head, share, args.rows, args.length) for share in (0.1, 1.0) for head in ("sparse", "dense")]
    state = cases[0].initial(config)
    for case in cases:  # compile
        state = case.run(state)
        case.best = float("inf")
    peaks = []
    for _ in range(repeats):
        for case in cases:
            peaks.append(ceiling())
            state = case.run(state)
    peak = max(peaks)
    name = f"{args.preset}, {config.layers} layers" if args.quick else args.preset
    device = jax.devices()[0].device_kind
    print(f"{name}, {args.rows} x {args.length} float32, ceiling {peak / 1e9:.1f} GFLOP/s ({device})")
    print("head    targets  step s  tokens/s  share of ceiling")
    rows: list[dict[str, Any]] = []
    for case in cases:
        row = {
            "preset": name,
            "head": case.head,
            "targets": case.share,
            "step_seconds": case.best,
            "tokens_per_second": case.tokens / case.best,
            "share_of_peak": case.flops / case.best / peak,
            "peak_flops": peak,
        }
        rows.append(row)
        speed, share = row["tokens_per_second"], row["share_of_peak"]
        print(f"{case.head:6}  {case.share:7.0%}  {case.best:6.2f}  {speed:8.0f}  {share:.2f}")
    for sparse, dense in zip(cases[::2], cases[1::2], strict=True):
        print(
            f"{sparse.share:.0%} targets: the sparse head makes the step {dense.best / sparse.best:.2f} times as fast"
        )
    if args.json:
        packages = ("jax", "jaxlib", "flax", "optax", "numpy")
        report = {
            "machine": {"platform": platform.platform(), "cpu": platform.processor(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
            "command": " ".join(sys.argv),
            "rows": rows,
        }
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
