"""A suite whose environments fail, for processes that the tests start: importable, unlike a test module.

The tests put this folder and an entry point of it on the path of those processes (fixture `unruly_suite`). Trouble
comes at step `AT` of evaluation episodes whose seed ends in `UNLUCKY`: once for each task, as the files in the folder
``UNRULY_MARKS`` remember, or, in "unruly/cursed", always and in every episode.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, SuiteError, Task
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

AT, UNLUCKY, STEPS = 2, 3, 5
SPEC, WIDE = (
    EpisodeSpec.of({"numbers": LeafSpec("continuous", (size,))}, LeafSpec("discrete", values=3)) for size in (2, 3)
)


def die(environment: Unruly) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(environment: Unruly) -> None:
    time.sleep(1_000)


def fail(environment: Unruly) -> None:
    raise RuntimeError("the simulator\nis tired")


def refuse(environment: Unruly) -> None:
    raise SuiteError("no state to go on from")


def blur(environment: Unruly) -> None:
    environment.seen = float("nan")


def overpay(environment: Unruly) -> None:
    environment.bonus = float("nan")


TROUBLE = {
    "dies": die,
    "hangs": sleep,
    "raises": fail,
    "cursed": fail,
    "refuses": refuse,
    "blurs": blur,
    "overpays": overpay,
}


class Unruly:
    """The reward is the action plus a draw of the episode's seed."""

    def __init__(self, name: str, pause: float = 0.0) -> None:
        self.name, self.pause = name, pause
        self.spec = WIDE if name == "wide" else SPEC

    def reset(self, seed: int) -> dict[str, Any]:
        self.seed, self.steps, self.rng = seed, 0, np.random.default_rng(seed)
        self.seen, self.bonus = 1.0, 0.0
        return self._observe()

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        time.sleep(self.pause)
        if self.steps == AT and self._is_due():
            TROUBLE[self.name](self)
        reward = float(action["action"]) + float(self.rng.random()) + self.bonus
        return self._observe(), reward, False, self.steps >= STEPS, {}

    def frame(self) -> np.ndarray:
        return np.full((8, 8, 3), 40 * self.steps, np.uint8)

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Any]:
        numbers = self.rng.normal(size=self.spec.observations["numbers"].shape)
        return {"numbers": (self.seen * numbers).astype(np.float32)}

    def _is_due(self) -> bool:
        if self.name not in TROUBLE or self.seed < EVALUATION_SEED:
            return False
        if self.name == "cursed":
            return True
        mark = Path(os.environ["UNRULY_MARKS"]) / self.name
        due = self.seed % 10 == UNLUCKY and not mark.exists()
        if due:
            mark.touch()
        return due


class Misfit(Unruly):
    """Does not keep to its spec."""

    def __init__(self) -> None:
        super().__init__("misfit")

    def _observe(self) -> dict[str, Any]:
        return {"numbers": np.zeros(5, np.float32)}


class Builder:
    """Builds the environment of one task; picklable."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> Unruly:
        return Unruly(self.name, pause=0.05 if self.name == "slow" else 0.0)


def _expert(environment: Unruly, rng: np.random.Generator) -> Any:
    return lambda observation: {"action": np.int32(2)}


def task_names() -> list[str]:
    return [f"unruly/{name}" for name in ("steady", "slow", "wide", *TROUBLE)]


def make_task(name: str) -> Task:
    return Task(name, Builder(name.partition("/")[2]), _expert, "return", STEPS, random_score=7.5, expert_score=12.5)
