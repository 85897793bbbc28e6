"""Suites to evaluate on, and runs of networks that have learned nothing.

"toy/match": the action must name the largest of three numbers; "toy/hopeless" has no better expert. The suite `unruly`
is for processes that the tests start.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.environments import registry
from gato.data_pipelines.environments.base import Task
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.sources.captions import CAPTION_SPEC, QUESTION_SPEC
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.training.checkpoint_meta import SourceMeta

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


@pytest.fixture(scope="module")
def toy_run(
    toy_suite: types.ModuleType, untrained_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run directory of the two toy tasks, captions and questions."""
    documents = (("captions/rooms", CAPTION_SPEC), ("questions/rooms", QUESTION_SPEC))
    return untrained_run(tmp_path_factory.mktemp("toy"), toy_suite.task_names(), documents)


@pytest.fixture(scope="module")
def unruly_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[types.ModuleType]:
    """The module `unruly` as an installed package offers it, here and in every process that is started."""
    folder = tmp_path_factory.mktemp("unruly")
    about = folder / "unruly-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\nunruly = unruly\n")
    path = [str(folder), str(Path(__file__).parent)]
    with pytest.MonkeyPatch.context() as patch:
        for place in path:
            patch.syspath_prepend(place)  # processes that are spawned get it, too
        patch.setenv("PYTHONPATH", os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("UNRULY_MARKS", str(folder))
        yield importlib.import_module("unruly")


@pytest.fixture
def no_marks(unruly_suite: types.ModuleType) -> None:
    """What fails once fails once in this test."""
    for name in unruly_suite.TROUBLE:
        (Path(os.environ["UNRULY_MARKS"]) / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def untrained_run(save_untrained: Callable[..., Path]) -> Callable[..., Path]:
    """Folder, tasks, documents -> a run directory: stores, config.json and a checkpoint that has learned nothing."""

    def make(
        folder: Path, tasks: Sequence[str], documents: Sequence[tuple[str, EpisodeSpec]] = (), window: int = 2
    ) -> Path:
        data, described = [], {}
        for name in tasks:
            task, path = get_task(name), folder / "data" / name
            environment = task.make()
            with StoreWriter(path, name, environment.spec, {"task": name}) as writer:
                for index in range(6):
                    writer.write(demonstration(task, environment, index, seed=0))
            data.append(SourceConfig(path, window_timesteps=window, prompt_timesteps=2, held_out_episodes=2))
            described[name] = SourceMeta(environment.spec, name, window, 2)
        return save_untrained(folder / "run", described | {name: SourceMeta(spec) for name, spec in documents}, data)

    return make
