"""The interface between simulators and everything else: an environment, and a task with its expert.

An environment speaks in named leaves: what it returns and accepts are flat dictionaries ``path -> value`` of one
timestep that match its `EpisodeSpec`. A task adds what collecting and evaluating need: an expert, a metric, a step
limit, the reference scores. Tasks come in suites (`suite`), which `registry` finds.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Literal, NoReturn, Protocol

import numpy as np

from gato.data_pipelines.episode import Episode, EpisodeSpec
from gato.tokenizers.errors import GatoError

Observation = dict[str, Any]
Action = dict[str, np.ndarray]
Policy = Callable[[Observation], Action]

# Seeds of `Environment.reset`: collection stays in [COLLECTION_SEED, EVALUATION_SEED), evaluation starts above it.
COLLECTION_SEED = 10_000
EVALUATION_SEED = 1_000_000


class MissingSuiteError(GatoError):
    """The package of a suite is not installed; the message holds the one command that mends it."""


class SuiteError(GatoError):
    """A suite's entry point leads nowhere, or to something that is no suite."""


class UnknownTaskError(GatoError):
    """No suite offers a task of this name; the message suggests the nearest ones."""


class ExpertError(GatoError):
    """An expert could not go on: it gave up, or it exceeded its budget of planning steps."""


class Environment(Protocol):
    """One simulated episode after another. The same seed gives the same episode (for the same actions), always."""

    spec: EpisodeSpec

    def reset(self, seed: int) -> Observation:
        """Starts an episode; returns path -> value of the first timestep (arrays; ``str`` for text leaves)."""

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Returns observation, reward, terminated, truncated, info (``info["success"]`` where the suite defines it)."""

    def frame(self) -> np.ndarray:
        """A picture of the current state, uint8 [height, width, 3], drawn without OpenGL."""

    def close(self) -> None:
        """Releases the simulator."""


@dataclasses.dataclass(frozen=True)
class NoExpert:
    """Stands in for `Task.expert` where nobody wrote one."""

    task: str

    def __call__(self, environment: Any, rng: np.random.Generator) -> NoReturn:
        raise ExpertError(f"task {self.task!r} has no built-in expert; import demonstrations of it instead")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task that can be collected and evaluated.

    Attributes:
      name: "suite/task".
      make: builds the environment; keyword options are the suite's own (e.g. ``mission="wrong"`` in BabyAI).
      expert: called after every ``reset`` with the environment and a generator; returns the policy of that episode.
        The policy may read the simulator's state and what was last executed: experts may see more than an agent.
        `NoExpert` where there is none.
      metric: "success" (share of episodes with ``info["success"]`` at any step) or "return" (sum of rewards).
      max_steps: limit of an episode; the environment truncates there.
      random_score, expert_score: of uniformly random actions and of an expert under the same protocol; NaN: those of
        `references`, which `get_task` puts here, or nobody measured.
      noise: levels of DART noise, cycled over the collected episodes. A level is the standard deviation of Gaussian
        noise in units of half an action's range (continuous), or the probability of a random value (discrete).
      steps_after_success: where to cut a demonstration; ``None`` keeps the whole episode.
      controls: label -> options of `make` that take away what the task is meant to test (its mission, its image). A
        policy that scores as well under a control does not use it.
    """

    name: str
    make: Callable[..., Environment]
    expert: Callable[[Any, np.random.Generator], Policy]
    metric: Literal["success", "return"]
    max_steps: int
    random_score: float = float("nan")
    expert_score: float = float("nan")
    noise: tuple[float, ...] = (0.0,)
    steps_after_success: int | None = None
    controls: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DocumentSource:
    """Documents (text, captions, questions) that can be collected like a task's demonstrations.

    Attributes:
      name: "family/kind".
      spec: of the documents, ``kind="document"``.
      episodes: ``(count, seed) -> iterator`` of at most ``count`` one-step episodes; a pure function.
    """

    name: str
    spec: EpisodeSpec
    episodes: Callable[[int, int], Iterator[Episode]]


def bound(values: np.ndarray) -> float | tuple[float, ...]:
    """One end of an action's range for its `LeafSpec`: one number where all elements share it, else one for each."""
    flat = [float(value) for value in np.ravel(values)]
    return flat[0] if len(set(flat)) == 1 else tuple(flat)


def install_command(*extras: str) -> str:
    """The one command that installs extras of ours; it is to be given in the checkout."""
    return f'pip install --constraint constraints.txt --editable ".[{",".join(extras)}]"'


def import_package(package: str, extra: str) -> ModuleType:
    """Imports ``package``, which our ``extra`` installs. Raises `MissingSuiteError` if it is not there."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingSuiteError(
            f"package {error.name or package!r} is not installed; in the checkout: {install_command(extra)}"
        ) from error
