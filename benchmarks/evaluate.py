"""Environment steps a second of an evaluation: many environments in a batch against one after the other.

python benchmarks/evaluate.py [--quick] [--task metaworld/reach-v3] [--preset quickstart] [--environments 1 8 32]
                              [--window 1] [--steps 100] [--json FILE]

The loop of `gato.evaluation.rollouts`: the agent (random weights) acts for all environments in one call, the
environments step. "unbatched" is the same loop with a single environment, which is played as often as there are
environments; "in one process" steps them beside the agent, "in processes" in one process for each core, where they may
crash. The ways are measured in turns, and the best of each is compared: other programs can only make a run longer.
Environments and compiled functions exist before the clock starts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
from result_file import write_result
from untrained import untrained_agent

from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.worker_process import cores
from gato.evaluation.jobs import environment_spec
from gato.evaluation.simulators import Answer, Begin, InProcess, InProcesses, Place, Simulators, Step
from gato.inference.agent import Agent
from gato.training.checkpoint_meta import SourceMeta

REPEATS = 3


class Loop:
    """A batch of environments that is stepped for a while whenever it is called."""

    def __init__(self, agent: Agent, task: str, simulators: Simulators, environments: int, steps: int) -> None:
        self._agent, self._task, self._simulators = agent, task, simulators
        self._count, self._steps, self._seed = environments, steps, 0

    def __call__(self) -> float:
        """Seconds for `steps` steps of every environment; beginning the episodes is not counted."""
        self._seed += self._count
        self._agent.reset(self._task, batch=self._count)
        answers = self._checked({i: Begin(self._seed + i) for i in range(self._count)})
        start = time.perf_counter()
        for _ in range(self._steps):
            actions = self._agent.act([answers[i].observation for i in range(self._count)])
            answers = self._checked({i: Step(action) for i, action in enumerate(actions)})
        return time.perf_counter() - start

    def close(self) -> None:
        self._simulators.close()

    def _checked(self, commands: Any) -> dict[int, Answer]:
        answers = self._simulators.exchange(commands)
        assert all(isinstance(answer, Answer) for answer in answers.values()), answers
        return answers  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="metaworld/reach-v3")
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--environments", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--window", type=int, default=1, help="timesteps of memory (default 1, as in the quickstart)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="20 steps: under a minute")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    steps = 20 if args.quick else args.steps
    if steps > get_task(args.task).max_steps:
        parser.error(f"--steps: an episode of {args.task} has {get_task(args.task).max_steps}")
    source = SourceMeta(environment_spec(args.task), args.task, args.window)
    agent = untrained_agent(args.preset, {args.task: source})
    place = Place(args.task, get_task(args.task).make)
    rows = []
    print(f"{args.task}, {args.preset}, window {args.window}, {cores()} cores ({jax.devices()[0].device_kind})")
    print("environments  steps/s unbatched  in one process  in processes  ratio")
    for count in args.environments:
        starts: dict[str, tuple[int, Callable[[list[Place]], Simulators]]] = {
            "unbatched": (1, InProcess),
            "in_process": (count, InProcess),
            "in_processes": (count, lambda places: InProcesses(places, cores())),
        }
        loops = {
            way: Loop(agent, args.task, start([place] * batch), batch, steps) for way, (batch, start) in starts.items()
        }
        best = {way: loop() * 0 + float("inf") for way, loop in loops.items()}  # build and compile
        for _ in range(REPEATS):
            for way, loop in loops.items():
                best[way] = min(best[way], loop())
        for loop in loops.values():
            loop.close()
        rate = {way: steps * starts[way][0] / seconds for way, seconds in best.items()}
        ratio = max(rate["in_process"], rate["in_processes"]) / rate["unbatched"]
        print("{:12d}  {:17.0f}  {:14.0f}  {:12.0f}  {:5.1f}".format(count, *rate.values(), ratio))
        rows.append({"task": args.task, "preset": args.preset, "environments": count, "ratio": ratio, **rate})
    write_result(args.json, rows, ("jax", "jaxlib", "flax", "numpy"))


if __name__ == "__main__":
    main()
