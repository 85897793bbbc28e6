"""A toy suite, "toy/match": the action must name the largest of three numbers; "toy/hopeless" has no better expert."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.environments import registry
from gato.data_pipelines.environments.base import Task
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

STEPS = 6
SPEC = EpisodeSpec.of(
    {
        "numbers": LeafSpec("continuous", (3,)),
        "word": LeafSpec("text"),
        "cell": LeafSpec("discrete", values=4),
        "picture": LeafSpec("image", (16, 16, 1)),
    },
    {"choice": LeafSpec("discrete", values=3), "push": LeafSpec("continuous", (1,), low=-2.0, high=2.0)},
)


class Toy:
    """Success: right twice in an episode. The reward of a step is 1 for the right choice."""

    spec = SPEC

    def __init__(self, blind: bool = False) -> None:
        self.blind, self.seeds, self.closed, self.steps = blind, [], False, 0

    def reset(self, seed: int) -> dict[str, Any]:
        assert not self.closed
        self.seeds.append(seed)
        self.rng, self.steps, self.right = np.random.default_rng(seed), 0, 0
        return self._draw()

    def _draw(self) -> dict[str, Any]:
        self.numbers = self.rng.normal(size=3).astype(np.float32)
        shown = np.zeros(3, np.float32) if self.blind else self.numbers
        picture = np.full((16, 16, 1), 40 * self.steps, np.uint8)
        return {"numbers": shown, "word": "go now", "cell": np.int64(self.steps % 4), "picture": picture}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        right = int(action["choice"]) == int(np.argmax(self.numbers))
        self.right += right
        done = self.steps >= STEPS
        return self._draw(), float(right), False, done, {"success": self.right >= 2}

    def frame(self) -> np.ndarray:
        return np.full((8, 8, 3), self.steps, np.uint8)

    def close(self) -> None:
        self.closed = True


def _expert(environment: Toy, rng: np.random.Generator) -> Any:
    return lambda observation: {
        "choice": np.int32(np.argmax(environment.numbers)),
        "push": np.array([0.5 * environment.numbers[0].clip(-2, 2)], np.float32),
    }


@pytest.fixture(scope="module")
def toy_suite() -> Iterator[types.ModuleType]:
    module = types.ModuleType("toy_suite")
    module.task_names = lambda: ["toy/match", "toy/hopeless"]
    module.make_task = lambda name: Task(
        name=name,
        make=Toy,
        expert=_expert,
        metric="success" if name == "toy/match" else "return",
        max_steps=STEPS,
        random_score=0.5 if name == "toy/match" else 3.0,
        expert_score=1.0 if name == "toy/match" else 3.0,
        controls={"blind": {"blind": True}} if name == "toy/match" else {},
    )
    module.Toy, module.SPEC, module.STEPS = Toy, SPEC, STEPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "toy_suite", module)
        patch.setitem(registry.SUITES, "toy", "toy_suite")
        yield module
