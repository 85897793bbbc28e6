"""The training step against the machine's own matmul ceiling, and the sparse head against the dense one.

    python benchmarks/train.py [--quick] [--preset gato_79m ...] [--position transformer_xl ...] [--layers scanned ...]
        [--dtype float32] [--rows 2 ...] [--length 1024] [--remat none ...] [--accumulate 1 ...] [--targets 0.1 1]
        [--head sparse dense] [--mesh 1,1,1] [--repeats 3] [--json FILE]

On an accelerator: --preset gato_79m gato_364m gato_1_2b --position rope transformer_xl --dtype bfloat16 --rows 8 16
--remat none dots --targets 1 --head sparse. All that is named is combined with all.

On a CPU everything runs on one thread of one core. Ceiling and steps are measured in turns, so that a machine that is
busy or hot slows both, and the best of each is compared: other programs can only make a run longer. FLOPs are counted
analytically (`gato.training.flops`): causal attention once, the backward pass as two forward passes, the head and the
last block's feed-forward only where there is a target. The dense head computes more than that; its useful FLOPs are
the same, and the step times compare the two. *MFU* is against the data sheet, where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

# One thread of a CPU: before JAX reads its flags.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1")
).strip()

import jax
import jax.numpy as jnp
import numpy as np
from result_file import write_result

from gato import sharding
from gato.data_pipelines.mixture import SourceConfig
from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.model.transformer import GatoModel
from gato.tokenizers.layout import KINDS
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import TrainConfig
from gato.training.cost import compiled_memory
from gato.training.flops import batch_flops, peak_flops
from gato.training.loss import LossSums, dense_loss
from gato.training.step import TrainState, batch_loss
from gato.training.steps import make_steps


def make_batch(
    vocabulary: Vocabulary,
    rows: int,
    length: int,
    share: float,
    groups: int = 1,
    images: float = 0,
    slots: float = 0,
    fill: float = 1,
) -> dict[str, np.ndarray]:
    """Rows of one segment; every (1 / share)-th token is an action with a target.

    Args:
      images: share of the segment's tokens that are image patches, at its start.
      slots: patches that the ResNet computes, as a share of the tokens; at least `images`.
      fill: share of a row that the segment takes.
    """
    rng = np.random.default_rng(0)
    shape, size = (rows, length), rows // groups
    learned = np.arange(length) % round(1 / share) == 0
    used = np.arange(length) < fill * length
    learned &= used
    learned[0] = False
    ids = rng.integers(0, vocabulary.size, shape, dtype=np.int32)
    targets = np.tile(np.flatnonzero(np.tile(learned, size)), (groups, 1))
    action, pictures = KINDS.index("action"), round(images * fill * length)
    patch_index = np.full(shape, -1, np.int32)
    patch_index[:, :pictures] = (np.arange(rows) % size * pictures)[:, None] + np.arange(pictures)
    patches = max(round(slots * size * length), size * pictures)
    return {
        "ids": ids,
        "loss_weight": np.tile(learned, (rows, 1)).astype(np.float32),
        "local_position": np.zeros(shape, np.int16),
        "segment_ids": np.tile(used, (rows, 1)).astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "kinds": np.full(shape, action, np.int8),
        "source": np.zeros(shape, np.int16),
        "patch_index": patch_index,
        "patch_intervals": np.tile(np.asarray([0, 64, 64, 128], np.int16), (rows, length, 1)),
        "patches": rng.integers(0, 256, (groups, patches, 16, 16, 3), dtype=np.uint8),
        "target_index": (targets - 1).astype(np.int32),
        "target_ids": np.take_along_axis(ids.reshape(groups, -1), targets, 1),
        "target_weight": np.ones(targets.shape, np.float32),
        "target_kind": np.full(targets.shape, action, np.int8),
        "target_source": np.zeros(targets.shape, np.int16),
    }


def dense_batch_loss(
    model: GatoModel, params: Any, batch: Any, rngs: Any = None, *, vocabulary_size: int, sources: int
) -> LossSums:
    """What every open Gato does: logits everywhere, masked afterwards."""
    hidden_BLD: Any = model.apply(params, batch, train=True, rngs=rngs)
    return dense_loss(
        lambda hidden: model.apply(params, hidden, method="logits"),
        hidden_BLD,
        batch,
        vocabulary_size=vocabulary_size,
        sources=sources,
    )


class Ceiling:
    """FLOP/s of one large matrix product of a dtype."""

    def __init__(self, dtype: str) -> None:
        size = 2048 if jax.default_backend() == "cpu" else 8192
        self._x = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), dtype)
        self._repeats = 1 if jax.default_backend() == "cpu" else 20
        self._product = jax.jit(jnp.matmul)
        self._flops = 2 * size**3 * self._repeats
        self.best = 0.0
        self.run()

    def run(self) -> None:
        began = time.perf_counter()
        for _ in range(self._repeats):
            product = self._product(self._x, self._x)
        product.block_until_ready()
        self.best = max(self.best, self._flops / (time.perf_counter() - began))


class Case:
    """The trainer's own step, compiled for one batch on a mesh."""

    def __init__(
        self,
        model: ModelConfig,
        batch: dict[str, np.ndarray],
        head: str = "sparse",
        mesh: Any = None,
        accumulate: int = 1,
    ) -> None:
        self.mesh = mesh if mesh is not None else sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
        self.model, (self.rows, self.length) = model, batch["ids"].shape
        self.tokens, self.flops = self.rows * self.length, batch_flops(model, batch)
        self.batch = jax.device_put(batch, sharding.batch_sharding(self.mesh))
        source = SourceConfig("none")  # nothing is read
        config = TrainConfig(model, (source,), batch_size=self.rows, length=self.length, accumulate=accumulate)
        loss = {"sparse": batch_loss, "dense": dense_batch_loss}[head]
        steps = make_steps(config, self.mesh, vocabulary_size=Vocabulary().size, sources=1, loss=loss)
        self.abstract = jax.eval_shape(steps.create_state)
        self._create = jax.jit(steps.create_state, out_shardings=steps.state_shardings)
        began = time.perf_counter()
        self._step = steps.train_step.lower(self.abstract, self.batch).compile()  # type: ignore[attr-defined]
        self.compile_seconds = time.perf_counter() - began
        memory = compiled_memory(self._step)
        assert memory is not None, "every platform that was tried says"
        self.bytes = memory.total
        self.best = float("inf")

    def row(self) -> dict[str, Any]:
        """What was measured, and on what, as JSON values."""
        return {
            "layers": self.model.layers,
            "scan_layers": self.model.scan_layers,
            "position": self.model.position,
            "dtype": self.model.dtype,
            "batch": self.rows,
            "length": self.length,
            "mesh": dict(self.mesh.shape),
            "compile_seconds": self.compile_seconds,
            "step_seconds": self.best,
            "tokens_per_second": self.tokens / self.best,
            "memory_bytes_per_device": self.bytes,
        }

    def initial(self) -> TrainState:
        return self._create()

    def run(self, state: TrainState) -> TrainState:
        began = time.perf_counter()
        state, metrics = self._step(state, self.batch)
        assert np.isfinite(float(metrics.sums.mean()))
        self.best = min(self.best, time.perf_counter() - began)
        return state


def pin_to_one_core() -> None:
    if hasattr(os, "sched_setaffinity") and jax.default_backend() == "cpu":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def write_json(path: str | None, rows: list[dict[str, Any]]) -> None:
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    write_result(path, rows, ("jax", "jaxlib", "flax", "optax", "numpy"), device=device)


class Choice(NamedTuple):
    """What one line of the table is about, beside preset, position and whether the layers are scanned."""

    rows: int
    remat: str
    accumulate: int
    targets: float
    head: str


COLUMNS = (
    "preset      position        layers    batch  mesh     remat  micro  head    targets  compile s  step s  tokens/s  "
    "TFLOP/s  of ceiling   MFU  memory GB"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["gato_79m"])
    parser.add_argument("--position", nargs="+", default=["transformer_xl"])
    parser.add_argument("--layers", nargs="+", choices=("scanned", "unrolled"), help="(default: the preset's)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", nargs="+", type=int, default=[2], help="of a batch, on all devices together")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--remat", nargs="+", choices=("none", "dots", "full"), default=["none"])
    parser.add_argument("--accumulate", nargs="+", type=int, default=[1], help="micro-batches of a step")
    parser.add_argument("--targets", nargs="+", type=float, default=[0.1, 1.0], help="shares of tokens with a target")
    parser.add_argument("--head", nargs="+", choices=("sparse", "dense"), default=["sparse", "dense"])
    parser.add_argument("--mesh", default="-1,1,1", help="data,fsdp,tensor")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two layers, one repeat: under a minute")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    pin_to_one_core()
    mesh = sharding.make_mesh(*(int(size) for size in args.mesh.split(",")))
    for rows, accumulate in itertools.product(args.rows, args.accumulate):
        if rows % (sharding.batch_parts(mesh) * accumulate):
            parser.error(
                f"{rows} rows do not divide over {sharding.batch_parts(mesh)} parts x {accumulate} micro-batches"
            )
    ceiling = Ceiling(args.dtype)
    print(
        f"rows of {args.length} tokens, {args.dtype}, on {jax.device_count()} x {jax.devices()[0].device_kind}; "
        "the ceiling is a matrix product of the same dtype, in turns"
    )
    print(COLUMNS)
    found: list[dict[str, Any]] = []
    for name, position, layers in itertools.product(args.preset, args.position, args.layers or [None]):
        changes = {"position": position, "dtype": args.dtype, **({"layers": 2} if args.quick else {})}
        config = preset(name, Vocabulary(), **changes)
        if layers is not None:
            config = config.replace(scan_layers=layers == "scanned")
        choices = [
            Choice(*choice)
            for choice in itertools.product(args.rows, args.remat, args.accumulate, args.targets, args.head)
        ]
        found += measure(name, config, choices, args.length, mesh, ceiling, 1 if args.quick else args.repeats)
        write_json(args.json, found)
    if jax.default_backend() == "cpu":
        print(f"ceiling {ceiling.best / 1e9:.0f} GFLOP/s")
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


@contextlib.contextmanager
def room_for(choice: Choice, refused: list[Choice]) -> Iterator[None]:
    """Notes the choice where a device has too little memory for what is done inside."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refused.append(choice)


def measure(
    name: str, config: ModelConfig, choices: list[Choice], length: int, mesh: Any, ceiling: Ceiling, repeats: int
) -> list[dict[str, Any]]:
    """All choices of one model in turns, from one state; prints their lines. A choice that does not fit the devices is
    a row that says so."""
    cases: dict[Choice, Case] = {}
    refused: list[Choice] = []
    for choice in choices:
        groups = sharding.batch_parts(mesh) * choice.accumulate
        batch = make_batch(Vocabulary(), choice.rows, length, choice.targets, groups)
        with room_for(choice, refused):
            cases[choice] = Case(config.replace(remat=choice.remat), batch, choice.head, mesh, choice.accumulate)
    state: TrainState | None = None
    ceiling.best = 0.0
    for attempt in range(repeats + 1):
        for choice, case in list(cases.items()):
            ceiling.run()
            taken, state = state, None  # a step that fails may have its buffers
            with room_for(choice, refused):
                state = case.run(case.initial() if taken is None else taken)
            del taken
            if choice in refused:
                del cases[choice]
            elif attempt == 0:
                case.best = float("inf")
    del state
    peak = peak_flops(jax.devices()[0].device_kind)
    found = []
    for choice, case in cases.items():
        rate = case.flops / case.best / mesh.size
        measured = {
            "preset": name,
            **choice._asdict(),
            **case.row(),
            "flops_per_second_per_device": rate,
            "share_of_ceiling": rate / ceiling.best,
            "ceiling_flops": ceiling.best,
            "mfu": rate / peak if peak else None,
        }
        found.append(measured)
        layers, sizes = "scanned" if config.scan_layers else "unrolled", ",".join(map(str, mesh.shape.values()))
        print(
            f"{name:10}  {config.position:14}  {layers:8}  {choice.rows:5}  {sizes:7}  {choice.remat:5}  "
            f"{choice.accumulate:5}  {choice.head:6}  {choice.targets:7.0%}  {case.compile_seconds:9.1f}  "
            f"{case.best:6.3f}  {case.tokens / case.best:8.0f}  {rate / 1e12:7.3f}  {rate / ceiling.best:10.2f}  "
            f"{rate / peak if peak else float('nan'):4.2f}  {case.bytes / 1e9:9.1f}",
            flush=True,
        )
    for choice in refused:
        model = {"preset": name, "position": config.position, "scan_layers": config.scan_layers}
        found.append({**model, **choice._asdict(), "error": "not enough memory on a device"})
        print(f"{name:10}  {config.position:14}  {found[-1]['error']}: {choice}", flush=True)
    for choice, case in cases.items():
        dense = cases.get(choice._replace(head="dense"))
        if choice.head == "sparse" and dense:
            print(
                f"{choice.rows} rows, remat {choice.remat}, micro-batches {choice.accumulate}, {choice.targets:.0%} "
                f"targets: the sparse head makes the step {dense.best / case.best:.2f} times as fast"
            )
    return found


if __name__ == "__main__":
    main()
