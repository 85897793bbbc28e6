"""BabyAI (minigrid): instructions in a grid world seen through a 7x7 window; 7 discrete actions.

``babyai/LEVEL`` shows one discrete value a cell: ``object + 11 * (color + 6 * state)`` in minigrid's indices, 49 tokens
in place of 147. ``babyai-raw/LEVEL`` shows the 7x7x3 values of the Gato paper. Both add direction and mission.

The cells are called "view" because leaves are read in the order of their names: so the mission comes first and every
cell can be compared with it. The other way round a small network took several times as many frames to read missions.

An episode ends at its mission's own step limit, of which the task's is the largest; success is a positive reward.
``make(mission="wrong")`` is a control: the agent reads the mission of another episode, the task itself stays. A policy
that scores as well with it does not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from typing import Any, Literal

import numpy as np

from gato.data_pipelines.environments.base import Action, Observation, Task, import_package
from gato.data_pipelines.environments.suite import Suite
from gato.data_pipelines.experts.babyai_bot import bot_policy
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

STARTER = ("GoToRedBall", "GoToLocal", "OpenDoor", "PickupLoc")
_OBJECTS, _COLORS, _STATES = 11, 6, 3
# These levels always ask for the same, so that no mission could be wrong.
_ONE_MISSION = {
    *("BlockedUnlockPickup", "GoToRedBall", "GoToRedBallGrey", "GoToRedBallNoDists", "KeyInBox"),
    *("KeyCorridor", *(f"KeyCorridorS{size}" for size in ("3R1", "3R2", "3R3", "4R3", "5R3", "6R3"))),
    *("OneRoomS8", "OneRoomS12", "OneRoomS16", "OneRoomS20", "OpenRedBlueDoors", "OpenRedBlueDoorsDebug"),
    *("OpenRedDoor", "UnlockLocal", "UnlockLocalDist", "UnlockToUnlock"),
}
_ACTIONS = 7
_PREFIX, _SUFFIX = "BabyAI-", "-v0"  # Of minigrid's identifiers.
_FRAME = 160  # Pixels a side, about.
_MISSION_DRAWS = 20
# Separates the seeds of wrong missions from those of episodes.
_WRONG_MISSION_SEED = 1 << 30


class BabyAIEnvironment:
    """One level.

    Args:
      level: e.g. "PickupLoc".
      raw: whether a cell shows three values.
      mission: "right", or "wrong" for the control.

    Attributes:
      simulator: minigrid's environment, which the bot reads.
      executed: the action of the last step, ``None`` after a reset; the bot plans around what really happened.
    """

    def __init__(self, level: str, raw: bool = False, mission: Literal["right", "wrong"] = "right") -> None:
        if mission not in ("right", "wrong"):
            raise GatoError(f'mission={mission!r}: choose "right" or "wrong"')
        self._level, self._raw, self._mission = level, raw, mission
        self.simulator = _make_simulator(level)
        self._other = _make_simulator(level) if mission == "wrong" else None
        view = LeafSpec("discrete", (7, 7, 3), values=_OBJECTS)
        if not raw:
            view = LeafSpec("discrete", (7, 7), values=_OBJECTS * _COLORS * _STATES)
        observations = {"direction": LeafSpec("discrete", values=4), "view": view, "mission": LeafSpec("text")}
        self.spec = EpisodeSpec.of(observations, LeafSpec("discrete", values=_ACTIONS))
        self.executed: int | None = None
        self._shown_mission = ""

    @property
    def max_steps(self) -> int:
        """The limit of the current episode."""
        return int(self.simulator.max_steps)

    def reset(self, seed: int) -> Observation:
        self.executed = None
        observation = _reset(self.simulator, seed)
        self._shown_mission = observation["mission"]
        if self._other is not None:
            self._shown_mission = self._draw_other_mission(seed)
        return self._leaves(observation)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.executed = int(action["action"])
        observation, reward, terminated, truncated, _ = self.simulator.step(self.executed)
        return self._leaves(observation), float(reward), bool(terminated), bool(truncated), {"success": reward > 0}

    def frame(self) -> np.ndarray:
        """The whole grid, the agent's view highlighted; minigrid draws it in numpy."""
        return self.simulator.get_frame(tile_size=max(8, _FRAME // self.simulator.width))

    def close(self) -> None:
        self.simulator.close()

    def _leaves(self, observation: dict[str, Any]) -> Observation:
        cells = observation["image"].astype(np.int32)
        if not self._raw:
            cells = cells[..., 0] + _OBJECTS * (cells[..., 1] + _COLORS * cells[..., 2])
        return {"direction": np.int32(observation["direction"]), "view": cells, "mission": self._shown_mission}

    def _draw_other_mission(self, seed: int) -> str:
        for draw in range(_MISSION_DRAWS):
            mission = _reset(self._other, _WRONG_MISSION_SEED + _MISSION_DRAWS * seed + draw)["mission"]
            if _meaning(mission) != _meaning(self.simulator.mission):
                return mission
        raise GatoError(f'level {self._level!r} has one mission only: mission="wrong" cannot be a control there')


def _names(suite: str) -> list[str]:
    return [f"{suite}/{level}" for level in _levels()]


def make_task(name: str) -> Task:
    """The task "babyai/LEVEL" or "babyai-raw/LEVEL"."""
    suite, _, level = name.partition("/")
    return Task(
        name=name,
        make=functools.partial(BabyAIEnvironment, level, raw=suite == "babyai-raw"),
        expert=bot_policy,
        metric="success",
        max_steps=_longest(_make_simulator(level)),
        noise=(0.0, 0.1, 0.2),
        controls={} if level in _ONE_MISSION else {"wrong mission": {"mission": "wrong"}},
    )


@functools.cache
def _levels() -> tuple[str, ...]:
    import_package("minigrid", "babyai")
    registry = import_package("gymnasium", "babyai").registry
    return tuple(sorted(name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in registry if _PREFIX in name))


def _make_simulator(level: str) -> Any:
    import_package("minigrid", "babyai")
    gymnasium = import_package("gymnasium", "babyai")
    suffix = "" if level.endswith("-v1") else _SUFFIX  # one level is called so
    return gymnasium.make(f"{_PREFIX}{level}{suffix}", disable_env_checker=True).unwrapped


def _longest(simulator: Any) -> int:
    """The step limit of the level's longest mission.

    A mission has the time to cross the whole maze as often as it needs to go somewhere (minigrid's `RoomGridLevel`).
    Levels that generate their missions ("pick up ... and open ..., then put ...") ask for one to four things.
    """
    if simulator.fixed_max_steps or not hasattr(simulator, "instr_kinds"):
        _reset(simulator, 0)
        return int(simulator.max_steps)
    things = max({"action": 1, "and": 2, "seq": 4}[kind] for kind in simulator.instr_kinds)
    ways = 2 if "putnext" in simulator.action_kinds else 1
    return simulator.room_size**2 * simulator.num_rows * simulator.num_cols * things * ways


def _meaning(mission: str) -> list[str]:
    """The mission's words without articles: "the red ball" and "a red ball" ask for the same."""
    return [word for word in mission.split() if word not in ("a", "the")]


def _reset(simulator: Any, seed: int) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints every layout that it rejects
        observation, _ = simulator.reset(seed=seed)
    return observation


SUITE = Suite(
    name="babyai",
    description="BabyAI: instructions in a grid world seen through a 7x7 window; one value a cell",
    task_names=functools.partial(_names, "babyai"),
    make_task=make_task,
    packages=("minigrid", "gymnasium"),
    extra="babyai",
)
RAW = dataclasses.replace(
    SUITE,
    name="babyai-raw",
    description="BabyAI with three values a cell, as the Gato paper shows it",
    task_names=functools.partial(_names, "babyai-raw"),
)
