"""Actions a second of the agent, beside what the machine could do at most and beside acting without a cache.

python benchmarks/act.py [--quick] [--preset gato_79m] [--positions transformer_xl rope] [--dtypes float32]
                         [--batches 1 8 32] [--context 1000] [--repeats 5] [--full] [--json FILE]

The embodiment has 17 observed and 6 action values: a timestep is 24 tokens. One call of `Agent.act` reads 19 new tokens
of each row and samples 6, so the weights are read six times; weights are random. A row costs the same however full its
memory is, up to the context: shapes are static. A full row is set back now and then (mode window), and half of it read
again in that call; the best call, which counts here, has none. *full* (with --full) is the mean over the calls from one
set-back to the next, with all rows set back at once. On a CPU everything runs on one thread.

The floor of a call is the sum over its six passes of the longest of
  - bytes of the weights that a pass reads over the memory bandwidth,
  - its FLOPs over the rate of a large matrix product of the same dtype,
  - and (*with cache*) bytes of the weights and of the rows' keys and values over the bandwidth,
both rates measured in this run. *uncached* runs the whole context forward for each of the six tokens, one row; *times*
is what the cache gains. *prompt* is the rate at which one row reads a prompt of the context's length. *first* is the
first call, with its compilation.
Other programs can only make a call longer: the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

# One thread: before JAX and numpy read their settings.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1")
).strip()
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from result_file import write_result
from untrained import untrained_agent

from gato.data_pipelines.episode import Episode
from gato.inference.agent import Agent
from gato.inference.sampling import Sampling, fold_each, sample
from gato.model.config import ModelConfig
from gato.model.transformer import GatoModel
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.token_sequence import NO_POSITION
from gato.tokenizers.vocabulary import Vocabulary

OBSERVED, ACTION = 17, 6
READ = OBSERVED + 2  # the last action's pending token, the observation, the separator
SPEC = EpisodeSpec.of(
    {"state": LeafSpec("continuous", (OBSERVED,))}, LeafSpec("continuous", (ACTION,), low=-1.0, high=1.0)
)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The best of some calls."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - start)
    return best


def bandwidth() -> float:
    """Bytes a second at which one thread reads 400 MB: the best of a sum by numpy and one by XLA.

    On an accelerator: 4 GB, many times in one call, since one sum takes little longer than its call.
    """
    if jax.default_backend() != "cpu":
        return _repeated_sums(1_000_000_000, 20)
    numbers = np.ones(100_000_000, np.float32)
    device, total = jnp.asarray(numbers), jax.jit(jnp.sum)
    jax.block_until_ready(total(device))
    return numbers.nbytes / min(seconds(numbers.sum, 3), seconds(lambda: total(device), 3))


def product_rate(dtype: str) -> float:
    """FLOPs a second of a product of two matrices of 2,048 rows; on an accelerator of 8,192, many in one call."""
    if jax.default_backend() != "cpu":
        return _repeated_products(8192, 20, dtype)
    matrix = jnp.ones((2048, 2048), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))
    return 2 * 2048**3 / seconds(lambda: product(matrix, matrix), 3)


def _repeated_sums(count: int, turns: int) -> float:
    numbers = jnp.ones(count, jnp.float32)

    @jax.jit
    def sums(numbers: jax.Array) -> jax.Array:
        # What is summed depends on the turn: else one sum would do for all.
        return jax.lax.fori_loop(0, turns, lambda turn, total: total + jnp.maximum(numbers, turn).sum(), 0.0)

    jax.block_until_ready(sums(numbers))
    return turns * numbers.nbytes / seconds(lambda: sums(numbers), 3)


def _repeated_products(size: int, turns: int, dtype: str) -> float:
    matrix = jnp.full((size, size), 1 / size, dtype)  # its powers stay what it is

    @jax.jit
    def powers(matrix: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, turns, lambda _, power: power @ matrix, matrix)

    jax.block_until_ready(powers(matrix))
    return turns * 2 * size**3 / seconds(lambda: powers(matrix), 3)


def weights_read(config: ModelConfig) -> int:
    """Numbers that a pass reads: the blocks, and the head of one leaf's bins."""
    inner = config.heads * config.head_dim
    block = 4 * config.width * inner + config.width * config.hidden // 2 * 3
    return config.layers * block + config.continuous_bins * config.width


def floor(config: ModelConfig, batch: int, context: int, bytes_a_second: float, flops_a_second: float) -> list[float]:
    """Seconds of a call at best, without and with reading the cache."""
    inner, weights = config.heads * config.head_dim, weights_read(config)
    size = jnp.dtype(config.dtype).itemsize
    xl = config.position == "transformer_xl"
    attention = config.layers * context * inner * (6 if xl else 4)
    cache = config.layers * context * inner * size * (2 * batch + xl)
    head = config.continuous_bins * config.width
    result = []
    for cached in (0, cache):
        result.append(0.0)
        for tokens in (READ, *(1,) * (ACTION - 1)):
            flops = batch * (tokens * (2 * (weights - head) + attention) + 2 * head)
            result[-1] += max((weights * size + cached) / bytes_a_second, flops / flops_a_second)
    return result


@functools.partial(jax.jit, static_argnames=("config", "lo", "hi"))
def act_uncached(config: ModelConfig, lo: int, hi: int, params: Any, row: dict[str, jax.Array]) -> jax.Array:
    """The action's ids: the whole row is run forward for each token, which is then written into the row."""
    model, first = GatoModel(config), row["ids"].shape[1] - ACTION

    def one(i: jax.Array, ids_1L: jax.Array) -> jax.Array:
        hidden_1LD: Any = model.apply(params, {**row, "ids": ids_1L})
        before_1D = jax.lax.dynamic_index_in_dim(hidden_1LD, first + i - 1, axis=1, keepdims=False)
        logits_1V: Any = model.apply(params, before_1D, lo, hi, method="logits")
        keys = fold_each(jax.random.key(0)[None], i)
        drawn_1 = lo + sample(logits_1V, keys, Sampling.of(1.0))
        return jax.lax.dynamic_update_slice_in_dim(ids_1L, drawn_1[:, None], first + i, axis=1)

    return jax.lax.fori_loop(0, ACTION, one, row["ids"])[:, first:]


def uncached(config: ModelConfig, params: Any, context: int, vocabulary: Vocabulary) -> float:
    """Seconds of an action without a cache."""
    shape = (1, context)
    row = {
        "ids": jnp.zeros(shape, jnp.int32),
        "local_position": jnp.full(shape, NO_POSITION, jnp.int32),
        "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.arange(context, dtype=jnp.int32)[None],
    }
    lo = vocabulary.text_size
    call = functools.partial(act_uncached, config, lo, lo + vocabulary.bins, params, row)
    jax.block_until_ready(call())
    return seconds(call, 1)


def demonstration(timesteps: int) -> Episode:
    rng = np.random.default_rng(0)
    observations = {"state": rng.normal(size=(timesteps, OBSERVED)).astype(np.float32)}
    actions = {"action": rng.uniform(-1, 1, (timesteps, ACTION)).astype(np.float32)}
    return Episode(observations, actions, np.zeros(timesteps, np.float32))


def measure(agent: Agent, batch: int, context: int, repeats: int) -> tuple[float, float]:
    """Seconds of the first action and of a later one."""
    observations = [{"state": np.zeros(OBSERVED, np.float32)}] * batch
    agent.reset(spec=SPEC, batch=batch, memory_tokens=context)
    first = seconds(lambda: agent.act(observations), 1)
    return first, seconds(lambda: agent.act(observations), repeats)


def full_rows(agent: Agent, batch: int, context: int) -> float:
    """Seconds of an action of full rows in the mean, what they are set back for included."""
    observations = [{"state": np.zeros(OBSERVED, np.float32)}] * batch
    agent.reset(spec=SPEC, batch=batch, memory_tokens=context)
    window = context // (READ - 1 + ACTION)
    between = max(1, window // 2)  # from one set-back to the next
    for _ in range(window + between):  # the first one compiles
        agent.act(observations)
    start = time.perf_counter()
    for _ in range(between):
        agent.act(observations)
    return (time.perf_counter() - start) / between


def prompt_rate(agent: Agent, context: int) -> float:
    """Tokens a second of one row that reads a prompt: what a first action takes longer behind a prompt than without."""
    observation = [{"state": np.zeros(OBSERVED, np.float32)}]
    timesteps = context // (READ - 1 + ACTION)

    def first(prompt: Episode | None) -> float:
        agent.begin(0, prompt=prompt)
        return seconds(lambda: agent.act(observation), 1)

    shown = demonstration(timesteps)
    first(shown)
    with_prompt, without = (min(first(prompt) for _ in range(2)) for prompt in (shown, None))
    return timesteps * (READ - 1 + ACTION) / (with_prompt - without)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gato_79m")
    parser.add_argument("--positions", nargs="+", default=["transformer_xl", "rope"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="also the mean over full rows: two windows of calls more")
    parser.add_argument("--quick", action="store_true", help="two layers, two repeats: under a minute")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.context < READ - 1 + ACTION:
        parser.error(f"--context must be at least {READ - 1 + ACTION}: one timestep")
    rates = {dtype: product_rate(dtype) for dtype in args.dtypes}
    read = bandwidth()
    repeats = 2 if args.quick else args.repeats
    changes: dict[str, Any] = {"layers": 2} if args.quick else {}
    name = f"{args.preset}, 2 layers" if args.quick else args.preset
    kind = jax.devices()[0].device_kind
    where = f"one thread ({kind})" if jax.default_backend() == "cpu" else kind
    print(f"{name}, context {args.context}, {where}; the machine reads", end=" ")
    print(f"{read / 1e9:.1f} GB/s,", ", ".join(f"{dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in rates.items()))
    print(f"{'floor':>53s}{'with cache':>18s}{'uncached':>18s}{'prompt':>18s}{'first':>9s}{'full':>11s}")
    print("position        dtype     batch  actions/s  actions/s  share  actions/s  share", end="")
    print("  actions/s  times    tokens/s  seconds  actions/s")
    rows = []
    for position in args.positions:
        for dtype in args.dtypes:
            agent = untrained_agent(args.preset, {}, 2 * args.context, position=position, dtype=dtype, **changes)
            config = agent.meta.model
            size = weights_read(config) * jnp.dtype(dtype).itemsize
            print(f"{position}, {dtype}: a token reads {size / 1e6:.0f} MB of weights, {1e3 * size / read:.1f} ms")
            plain = uncached(config, agent.params, args.context, agent.meta.vocabulary)
            for batch in args.batches:
                first, best = measure(agent, batch, args.context, repeats)
                floors = floor(config, batch, args.context, read, rates[dtype])
                row = {
                    "preset": name,
                    "position": position,
                    "dtype": dtype,
                    "batch": batch,
                    "contexts": [args.context],
                    "actions_per_second": [batch / best],
                    "floor_actions_per_second": [batch / floors[0]],
                    "floor_with_cache_actions_per_second": [batch / floors[1]],
                    "first_call_seconds": first,
                }
                if batch == 1:
                    row["actions_per_second_uncached"] = [1 / plain]
                    row["prompt_tokens_per_second"] = prompt_rate(agent, args.context)
                if args.full:
                    row["full_actions_per_second"] = [batch / full_rows(agent, batch, args.context)]
                rows.append(row)
                print(_line(row), flush=True)
    write_result(args.json, rows, ("jax", "jaxlib", "flax", "numpy"), bytes_per_second=read, flops_per_second=rates)


def _line(row: dict[str, Any]) -> str:
    rate, floor, with_cache = (row[f"{part}actions_per_second"][0] for part in ("", "floor_", "floor_with_cache_"))
    line = f"{row['position']:14s}  {row['dtype']:8s}  {row['batch']:5d}  {rate:9.1f}"
    line += f"  {floor:9.1f}  {rate / floor:5.2f}  {with_cache:9.1f}  {rate / with_cache:5.2f}"
    if "prompt_tokens_per_second" in row:
        plain = row["actions_per_second_uncached"][0]
        line += f"  {plain:9.3f}  {rate / plain:5.1f}  {row['prompt_tokens_per_second']:10.0f}"
    else:
        line += " " * 30
    line += f"  {row['first_call_seconds']:7.1f}"
    return line + (f"  {row['full_actions_per_second'][0]:9.1f}" if "full_actions_per_second" in row else "")


if __name__ == "__main__":
    main()
