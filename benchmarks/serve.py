"""A policy server over loopback against the same agent without it: actions a second, and latency.

python benchmarks/serve.py [--quick] [--presets quickstart gato_79m] [--sessions 1 8 64] [--seconds 8] [--json FILE]

Random weights; an observation of 20 numbers, an action of six, a memory of 1,024 tokens (mode "memory"). A process of
its own holds the agent. First it acts in a loop for n environments by itself; then it serves, and n clients (threads of
this process) send the same observations, each waiting for its action before it sends the next. Both are measured after
compilation, until `seconds` have passed. Latency is a client's: from its observation to its action.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from result_file import write_result

from gato.client import Client
from gato.serving.limits import Limits

SOURCE, OBSERVED, ACTION, LENGTH = "arm/reach", 20, 6, 1024


def observation() -> dict[str, np.ndarray]:
    return {"state": np.linspace(-1, 1, OBSERVED)}


def hold(pipe: Connection, name: str, layers: int | None, most: int) -> None:
    """The process with the agent: acts by itself when it is told ``(sessions, seconds)``, serves when told None."""
    # Only this process needs JAX.
    from untrained import untrained_agent

    from gato.serving.policy import Policy
    from gato.serving.server import Server
    from gato.tokenizers.spec import EpisodeSpec, LeafSpec
    from gato.training.checkpoint_meta import SourceMeta

    spec = EpisodeSpec.of(
        {"state": LeafSpec("continuous", (OBSERVED,))}, LeafSpec("continuous", (ACTION,), low=-1.0, high=1.0)
    )
    agent = untrained_agent(name, {SOURCE: SourceMeta(spec, SOURCE)}, LENGTH, **({"layers": layers} if layers else {}))
    while (order := pipe.recv()) is not None:
        sessions, seconds = order
        agent.reset(SOURCE, batch=sessions, memory="memory")
        batch = [observation()] * sessions
        for _ in range(2):  # compile
            agent.act(batch)
        began, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            agent.act(batch)
            steps += 1
        pipe.send(steps * sessions / passed)
    agent.release()
    policy = Policy(agent, most, memory="memory")
    policy.warm(SOURCE)

    async def serve() -> None:
        server = Server(policy, Limits(sessions=most), None, print)
        await server.run("127.0.0.1", 0, pipe.send)

    asyncio.run(serve())


def load(port: int, sessions: int, seconds: float) -> tuple[float, np.ndarray]:
    """(actions/s, latencies in seconds) of so many clients at once."""
    start, stop = threading.Barrier(sessions + 1), threading.Event()
    latencies: list[list[float]] = [[] for _ in range(sessions)]

    def play(number: int) -> None:
        with Client(f"ws://127.0.0.1:{port}", timeout=600) as client:
            client.open(SOURCE)
            client.act(observation())
            start.wait()
            while not stop.is_set():
                began = time.perf_counter()
                client.act(observation())
                latencies[number].append(time.perf_counter() - began)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    everything = np.concatenate([np.array(each) for each in latencies])
    return len(everything) / (time.perf_counter() - began), everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["quickstart", "gato_79m"])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="two layers, one second each: shows that it runs")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    seconds = 1.0 if args.quick else args.seconds
    rows: list[dict[str, Any]] = []
    print("preset      sessions  actions/s served  by itself  ratio  median ms  p99 ms", flush=True)
    for name in args.presets:
        pipe, end = multiprocessing.get_context("spawn").Pipe()
        holder = multiprocessing.get_context("spawn").Process(
            target=hold, args=(end, name, 2 if args.quick else None, max(args.sessions))
        )
        holder.start()
        end.close()  # so that its death is noticed
        alone = {}
        for sessions in args.sessions:
            pipe.send((sessions, seconds))
            alone[sessions] = pipe.recv()
        pipe.send(None)
        port = pipe.recv()
        for sessions in args.sessions:
            served, latencies = load(port, sessions, seconds)
            row = {
                "preset": name,
                "sessions": sessions,
                "actions_per_second": served,
                "actions_per_second_alone": alone[sessions],
                "ratio": served / alone[sessions],
                "median_ms": 1e3 * float(np.median(latencies)),
                "p99_ms": 1e3 * float(np.quantile(latencies, 0.99)),
            }
            rows.append(row)
            print("{:10s}  {:8d}  {:16.1f}  {:9.1f}  {:5.2f}  {:9.1f}  {:6.1f}".format(*row.values()), flush=True)
        holder.kill()
        holder.join()
    write_result(args.json, rows, ("jax", "jaxlib", "flax", "numpy", "websockets", "msgpack"))


if __name__ == "__main__":
    main()
