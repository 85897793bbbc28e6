"""Acting with the key/value cache against acting without one, at several contexts.

python benchmarks/act.py [--quick] [--preset gato_79m] [--batch 1] [--contexts 128 512 1024] [--repeats 5] [--json FILE]

One action: a timestep's tokens (20 of observation, one separator) are read and 4 action tokens are sampled at the end
of a context of the given length. With the cache that is one call over the new tokens and one over each sampled token
but the last (`gato.inference.sampler`); without, the whole context is run forward for each of the 4. On a CPU
everything runs on one thread. Both are measured in turns, so that a busy or hot machine slows both, and the best of
each is compared: other programs can only make a run longer.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

# One thread: before JAX reads its flags.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1")
).strip()

import jax
import jax.numpy as jnp
import numpy as np

from gato.inference import sampler
from gato.model.cache import init_cache
from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.tokenizers.token_sequence import NO_POSITION
from gato.tokenizers.vocabulary import Vocabulary

OBSERVED, ACTION_TOKENS = 20, 4
CHUNK = OBSERVED + 2  # the last action's pending token, the observation, the separator


@functools.partial(jax.jit, static_argnames=("config", "lo", "hi"))
def act_uncached(
    config: ModelConfig, lo: int, hi: int, params: Any, batch: dict[str, jax.Array], key: jax.Array
) -> jax.Array:
    """The action's ids [B, A]: the whole row is run forward for each token, which is then written into the row."""
    model = GatoModel(config)
    ids_BL = batch["ids"]
    first = ids_BL.shape[1] - ACTION_TOKENS
    for place in range(first, first + ACTION_TOKENS):
        hidden_BLD: Any = model.apply(params, {**batch, "ids": ids_BL})
        logits_BV: Any = model.apply(params, hidden_BLD[:, place - 1], lo, hi, method="logits")
        drawn_B = lo + sampler.sample(logits_BV, jax.random.fold_in(key, place), 1.0)
        ids_BL = ids_BL.at[:, place].set(drawn_B)
    return ids_BL[:, first:]


class Cached:
    """One action behind a cache that holds all but the newest tokens of a context."""

    def __init__(self, config: ModelConfig, params: Any, batch: int, context: int, vocabulary: Vocabulary) -> None:
        self._config, self._params = config, params
        self._cache = init_cache(config, batch, context, params)
        self._length = jnp.full((batch,), context - CHUNK - ACTION_TOKENS, jnp.int32)
        shape = (batch, CHUNK)
        self._tokens = {"ids": jnp.zeros(shape, jnp.int32), "local_position": jnp.full(shape, NO_POSITION, jnp.int32)}
        self._valid = jnp.full((batch,), CHUNK, jnp.int32)
        self._ranges = ((vocabulary.text_size, vocabulary.text_size + vocabulary.bins),) * ACTION_TOKENS
        self._key, self._seeds = jax.random.key(0), jnp.zeros(batch, jnp.int32)

    def __call__(self) -> jax.Array:
        cache = dataclasses.replace(self._cache, length=self._length + 0)
        ids, _, self._cache = sampler.extend_and_act(
            self._config, self._ranges, self._params, cache, self._tokens, self._valid, self._key, self._seeds,
            self._seeds, 1.0,
        )  # fmt: skip
        return ids


def uncached(config: ModelConfig, params: Any, batch: int, context: int, vocabulary: Vocabulary) -> Callable[[], Any]:
    """One action from a plain forward pass over the whole context for each of its tokens."""
    shape = (batch, context)
    tokens = {
        "ids": jnp.zeros(shape, jnp.int32),
        "local_position": jnp.full(shape, NO_POSITION, jnp.int32),
        "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.tile(jnp.arange(context, dtype=jnp.int32), (batch, 1)),
    }
    lo = vocabulary.text_size
    return functools.partial(act_uncached, config, lo, lo + vocabulary.bins, params, tokens, jax.random.key(0))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gato_79m")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two layers, two repeats: under a minute")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if min(args.contexts) < CHUNK + ACTION_TOKENS:
        parser.error(f"--contexts must be at least {CHUNK + ACTION_TOKENS}: one timestep and the pending token")
    vocabulary = Vocabulary()
    config = preset(args.preset, vocabulary, **({"layers": 2} if args.quick else {}))
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    ways = ("cached", "uncached")
    best: dict[tuple[str, int], float] = {}
    for context in args.contexts:
        calls: dict[str, Callable[[], Any]] = {
            "cached": Cached(config, params, args.batch, context, vocabulary),
            "uncached": uncached(config, params, args.batch, context, vocabulary),
        }
        for way in ways:  # compile
            jax.block_until_ready(calls[way]())
        for _ in range(2 if args.quick else args.repeats):
            for way in ways:
                best[way, context] = min(best.get((way, context), np.inf), seconds(calls[way]))
    rate = {way: [args.batch / best[way, context] for context in args.contexts] for way in ways}
    ratio = [cached / plain for cached, plain in zip(rate["cached"], rate["uncached"], strict=True)]
    name = f"{args.preset}, {config.layers} layers" if args.quick else args.preset
    print(f"{name}, batch {args.batch}, {config.dtype}, one thread ({jax.devices()[0].device_kind})")
    print("context  actions/s cached  uncached  ratio")
    for row in zip(args.contexts, rate["cached"], rate["uncached"], ratio, strict=True):
        print("{:7d}  {:16.1f}  {:8.2f}  {:5.1f}".format(*row))
    if args.json:
        packages = ("jax", "jaxlib", "flax", "numpy")
        report = {
            "machine": {"platform": platform.platform(), "cpu": platform.processor(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
            "command": " ".join(sys.argv),
            "rows": [
                {
                    "preset": name,
                    "batch": args.batch,
                    "contexts": args.contexts,
                    "actions_per_second": rate["cached"],
                    "actions_per_second_uncached": rate["uncached"],
                    "ratio": ratio,
                }
            ],
        }
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
