"""``gato quickstart``: from nothing to a prompted agent and its report, in stages that are never done twice.

    collect     demonstrations and documents                       -> data/
    tokenizer   a small SentencePiece model of the collected text   -> tokenizer.model
    train       the experiment's steps, or what the budget allows   -> config.json, metrics.jsonl, checkpoints/
    evaluate    the prompted agent in its simulators                -> evaluation/
    report      everything on one page                              -> report.html

`timings.json` keeps the time of each stage and says which are finished; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.collect import collect
from gato.data_pipelines.durations import duration
from gato.data_pipelines.starter import STARTER, longer_starter
from gato.data_pipelines.store import Store
from gato.data_pipelines.worker_process import cores
from gato.launch.config import load_config, train_config
from gato.launch.journal import Journal
from gato.launch.scores import print_scores
from gato.tokenizers import text as text_tokenizer
from gato.tokenizers.errors import GatoError
from gato.training.config import TrainConfig
from gato.training.run_lock import only_one

DEFAULT_BUDGET = 1140.0  # seconds; `--budget` of the command line. The installation takes the twentieth minute.
HOURS = 3600.0  # seconds; from this budget on more is collected, and `configs/quickstart_hours.py` is trained
PIECES = 2048
EPISODES, DOCUMENTS, SPECIALISTS = 20, 200, True  # of the evaluation
# What the stages around the training are expected to take on two cores; the training gets the rest of the budget.
EXPECTED = {"tokenizer": 10.0, "evaluate": 165.0, "report": 5.0}
SHORTEST_TRAINING = 60.0
ROUNDING, FEWEST = 50, 200  # steps
# Compiling once more, the validation losses on the way, and that steps become slower while a machine warms up, as a
# share of the training's time.
OVERHEAD = 0.1
# Part of the training: compiling, then timing steps, for so long that one bad moment does not decide a budget of hours.
COMPILING, TIMING, SHARE_OF_TIMING = 25.0, 15.0, 0.01  # seconds, seconds at least, of the budget


class BudgetError(GatoError):
    """The budget leaves no time for training."""


class Stopped(Exception):
    """A signal ended the training after everything was saved."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Quickstart:
    """The stages of one run directory."""

    def __init__(self, out: Path, budget: float, seed: int) -> None:
        self.out, self.budget, self.seed = out, budget, seed
        self.journal = Journal(out, {"budget": budget, "seed": seed})
        self.plans = STARTER if budget < HOURS else longer_starter()
        self.console = Console(stderr=True, highlight=False)
        self.stages: dict[str, Callable[[], None]] = {
            "collect": self.collect,
            "tokenizer": self.tokenizer,
            "train": self.train,
            "evaluate": self.evaluate,
            "report": self.report,
        }

    def run(self) -> None:
        """Runs the stages that are not finished. Raises Stopped, GatoError, KeyboardInterrupt."""
        for index, (name, stage) in enumerate(self.stages.items(), 1):
            head = f"[bold]{index}/{len(self.stages)} {name}[/]"
            if self.journal.is_finished(name):
                self.console.print(f"{head}  done before, {duration(self.journal.seconds[name])}")
                continue
            self.console.print(f"{head}  about {duration(self.left())} left in all")
            with self.journal.stage(name):
                stage()
            self.console.print(f"{head}  {duration(self.journal.seconds[name])}")

    def left(self) -> float:
        """Expected seconds until everything is done."""
        expected = {"collect": self.collecting_seconds(), **EXPECTED, "evaluate": self.evaluating_seconds()}
        waiting = {name: s for name, s in expected.items() if not self.journal.is_finished(name)}
        rest = sum(max(s - self.journal.seconds.get(name, 0.0), 1.0) for name, s in waiting.items())
        training = 0.0 if self.journal.is_finished("train") else self.training_seconds()
        return rest + max(training - self.journal.seconds.get("train", 0.0), 0.0)

    def training_seconds(self) -> float:
        """What the budget leaves for the training: measured times of finished stages, expected ones of the others."""
        collecting = self.journal.seconds.get("collect", self.collecting_seconds())
        tokenizing = self.journal.seconds.get("tokenizer", EXPECTED["tokenizer"])
        return self.budget - collecting - tokenizing - self.evaluating_seconds() - EXPECTED["report"]

    def collecting_seconds(self) -> float:
        """Expected, with every core."""
        return sum(plan.seconds for plan in self.plans) / cores()

    def evaluating_seconds(self) -> float:
        """Expected. Where the collection took longer than expected, the evaluation takes half as much longer.

        Measured on a busy machine: 3.3 and 2.0 times as long.
        """
        collecting = self.collecting_seconds()
        slower = self.journal.seconds.get("collect", 0.0) / collecting
        return EXPECTED["evaluate"] * max(1.0, (1 + slower) / 2)

    def check_budget(self) -> None:
        """Raises BudgetError, which names one that is enough, if the stages around the training take all of it."""
        if not self.journal.is_finished("collect") and self.training_seconds() < SHORTEST_TRAINING:
            needed = self.budget - self.training_seconds() + SHORTEST_TRAINING
            raise BudgetError(
                f"--budget={self.budget:.0f}s leaves no time to train beside collecting and evaluating; "
                f"give at least --budget={needed / 60 + 0.5:.0f}m"
            )

    def collect(self) -> None:
        collect(self.plans, self.out / "data", seed=self.seed, processes=cores())

    def tokenizer(self) -> None:
        model = text_tokenizer.train(collected_texts(self.out / "data"), PIECES)
        replace_file(self.out / "tokenizer.model", model)

    def train(self) -> None:
        from gato.training.trainer import train  # here: the stages before need no JAX

        use_every_core()
        began, config = time.monotonic(), self.training_config()
        if "steps" not in self.journal.notes:
            from gato.launch.calibrate import seconds_per_step

            timing = max(TIMING, SHARE_OF_TIMING * self.budget)
            self.console.print(f"compiling and measuring a training step: about {duration(COMPILING + timing)} ...")
            seconds = seconds_per_step(config, timing)
            available = (self.training_seconds() - (time.monotonic() - began)) * (1 - OVERHEAD)
            steps = max(FEWEST, int(available / seconds / ROUNDING) * ROUNDING)
            if self.budget <= DEFAULT_BUDGET:
                # The same run on every machine that is fast enough; a slower one, or a smaller budget, trains for less.
                steps = min(steps, config.steps)
            self.journal.notes |= {"steps": steps, "seconds_per_step": round(seconds, 4)}
            self.journal.write()
            self.console.print(f"{seconds:.3f} s a step: {steps:,} steps fit into the budget")
        result = train(config.replace(steps=self.journal.notes["steps"]), self.out)
        if result.interrupted_by is not None:
            raise Stopped(result.exit_code)

    def training_config(self) -> TrainConfig:
        """The experiment of `launch/configs/` for this budget on this run's data, with this run's seed."""
        import jax

        experiment = "quickstart" if self.budget < HOURS else "quickstart_hours"
        config = train_config(load_config(f"{experiment}:{self.out.absolute()}", [f"seed={self.seed}"]))
        devices = jax.device_count()
        return config.replace(batch_size=-(-config.batch_size // devices) * devices)

    def evaluate(self) -> None:
        from gato.evaluation.evaluate import evaluate
        from gato.evaluation.jobs import Protocol

        # Prompts as in the training, which saw one timestep; known simulators, which need no processes of their own.
        protocol = Protocol(EPISODES, "end", documents=DOCUMENTS, seed=self.seed)
        evaluate(self.out, protocol=protocol, specialists=SPECIALISTS, processes=cores(), simulators=0)

    def report(self) -> None:
        from gato.launch.report import make_report

        make_report(self.out)


def use_every_core() -> None:
    """A JAX device for every core (a power of two, at most 8), before JAX's first use; an accelerator is left as it is.

    XLA keeps one CPU device busy on 1.4 of two cores with a network this small; rows shared out over two devices make
    its steps about a tenth faster (throw-away measurement).
    """
    import jax

    devices = 1 << min(cores().bit_length() - 1, 3)
    with contextlib.suppress(RuntimeError):  # in use already: by a test
        jax.config.update("jax_num_cpu_devices", devices)


def collected_texts(folder: Path) -> Iterator[str]:
    """All texts of the stores below `folder`, in a fixed order; of an instruction that repeats, each wording once."""
    for plan in STARTER:
        store = Store(folder / plan.name)
        leaves = [path for path, leaf in store.spec.observations.items() if leaf.modality == "text"]
        seen: set[str] = set()
        for index in range(len(store) if leaves else 0):
            episode = store.episode(index)
            for path in leaves:
                for value in episode.observations[path]:
                    if value not in seen:
                        seen.add(value)
                        yield value


def run(arguments: argparse.Namespace) -> int:
    """Runs or continues the quickstart; returns the exit status of an interruption, else 0."""

    def opened() -> Quickstart:
        return Quickstart(arguments.out, arguments.budget, arguments.seed)

    # Before the directory is made and a journal keeps the budget: a refused one leaves nothing.
    opened().check_budget()
    try:
        with only_one(arguments.out, "quickstart"):
            quickstart = opened()  # anew: the one that was waited for has written its journal
            quickstart.run()
    except Stopped as stopped:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return stopped.status
    print_scores(json.loads((arguments.out / "evaluation" / "summary.json").read_text()))
    print(f"\n{duration(sum(quickstart.journal.seconds.values()))} in all; see {arguments.out / 'report.html'}")
    return 0
