"""The environments of a batch: in this process, or in processes of their own, where they may crash or hang.

`exchange` gives each named place of the batch its next command and returns what came back. An environment that raises,
kills its process or does not answer in time gives a `Failure` and is built anew when its next episode begins. Those
that share its process are lost with it: their failure says "beside". Nothing here imports JAX: the processes of
simulators start quickly and touch no accelerator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import pickle
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from gato.data_pipelines.environments.base import Action, Environment, Observation
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.episode import check_step
from gato.data_pipelines.worker_process import start_worker
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import LeafSpec

STEP_SECONDS = 60.0  # for one step or reset, before its environment counts as hanging
BUILD_SECONDS = 300.0  # to start a process and to build an environment there
_LONGEST_WAIT = 0.5  # between two looks at the clocks, in seconds
_PATIENCE = 5.0  # with a process that is to end, in seconds

Kind = Literal["raised", "crashed", "hung", "beside"]


@dataclasses.dataclass(frozen=True)
class Place:
    """What stands in one place of a batch: a name for messages, and how to build it (picklable for processes)."""

    name: str
    make: Callable[[], Environment]


@dataclasses.dataclass(frozen=True)
class Begin:
    """Begin the episode of this seed; with `film` a picture comes back with every answer."""

    seed: int
    film: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """Execute this action."""

    action: Action


Command = Begin | Step


@dataclasses.dataclass
class Answer:
    """What an environment showed.

    Attributes:
      success: None where it does not say.
      frame: uint8 [H, W, 3] if it is filmed and could be drawn.
      undrawn: why it could not; "" otherwise.
    """

    observation: Observation
    reward: float = 0.0
    over: bool = False
    success: bool | None = None
    frame: np.ndarray | None = None
    undrawn: str = ""


@dataclasses.dataclass
class Failure:
    """Why an environment gave no answer that can be used: it raised (or showed NaN, infinity, an unknown value), its
    process crashed, it hung, or it stood beside one that did.
    """

    kind: Kind
    reason: str


class Simulators(Protocol):
    """The environments of a batch."""

    def exchange(self, commands: Mapping[int, Command]) -> Mapping[int, Answer | Failure]:
        """Place -> answer, for the places of ``commands``; and failures of others that stood beside one that failed.

        Raises:
          SpecError: an observation does not match its environment's spec; names the task, the step and the leaf.
          GatoError: what the building of an environment says of a mistake of the user.
        """

    def close(self) -> None:
        """Ends the environments and their processes."""


@functools.cache
def _task(name: str) -> Any:
    return get_task(name)


def make_environment(task: str, options: Mapping[str, Any]) -> Environment:
    """An environment of the task called so; `functools.partial` of this can be sent to any process."""
    return _task(task).make(**options)


class InProcess:
    """All environments in this process, one after the other: the fastest, with no protection but against exceptions."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._environments = _Environments(dict(enumerate(places)))

    def exchange(self, commands: Mapping[int, Command]) -> Mapping[int, Answer | Failure]:
        return {place: self._environments.do(place, command) for place, command in commands.items()}

    def close(self) -> None:
        self._environments.close()


class InProcesses:
    """The environments shared out over processes, which step theirs one after the other.

    Args:
      places: of the batch.
      processes: at most one for each place.
      step_seconds: for one step or reset.
      build_seconds: for starting a process or building an environment.
    """

    def __init__(
        self,
        places: Sequence[Place],
        processes: int,
        step_seconds: float = STEP_SECONDS,
        build_seconds: float = BUILD_SECONDS,
    ) -> None:
        count = max(1, min(processes, len(places)))
        numbered = list(enumerate(places))
        # Neighbours are often of one task and as slow as each other, so each process gets every count-th.
        self._workers = [_Worker(dict(numbered[i::count]), step_seconds, build_seconds) for i in range(count)]

    def exchange(self, commands: Mapping[int, Command]) -> Mapping[int, Answer | Failure]:
        waiting = []
        for worker in self._workers:
            own = {place: commands[place] for place in worker.places if place in commands}
            if own:
                worker.send(own)
                waiting.append(worker)
        answers: dict[int, Answer | Failure] = {}
        while waiting:
            multiprocessing.connection.wait([part for worker in waiting for part in worker.signs()], _LONGEST_WAIT)
            for worker in list(waiting):
                reply = worker.receive()
                if reply is not None:
                    answers |= reply
                    waiting.remove(worker)
        return answers

    def close(self) -> None:
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()


class _Environments:
    """Builds environments when their first episode begins, and drops them when they raise."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self._places = places
        self._open: dict[int, Environment] = {}
        self._episodes: dict[int, tuple[Begin, int]] = {}  # what is being played, and its steps so far

    def do(
        self, place: int, command: Command, notice: Callable[[int, bool], None] = lambda place, building: None
    ) -> Answer | Failure:
        """Executes a command; ``notice(place, building)`` before each part of it that may take long."""
        try:
            if isinstance(command, Begin) and place not in self._open:
                notice(place, True)
                self._open[place] = self._places[place].make()
            notice(place, False)
            try:
                answer = self._begin(place, command) if isinstance(command, Begin) else self._step(place, command)
            except GatoError as error:  # of this episode (no state that it can start from), unlike those of building
                return self._fail(place, _words(error))
            return self._checked(place, answer)
        except GatoError:
            raise
        except Exception as error:  # the simulator's own, whatever it is
            return self._fail(place, _words(error))

    def close(self) -> None:
        for place in list(self._open):
            self._drop(place)

    def _begin(self, place: int, command: Begin) -> Answer:
        self._episodes[place] = command, 0
        return Answer(self._open[place].reset(command.seed))

    def _step(self, place: int, command: Step) -> Answer:
        observation, reward, terminated, truncated, info = self._open[place].step(command.action)
        begun, steps = self._episodes[place]
        self._episodes[place] = begun, steps + 1
        success = bool(info["success"]) if "success" in info else None
        return Answer(observation, float(reward), bool(terminated or truncated), success)

    def _checked(self, place: int, answer: Answer) -> Answer | Failure:
        """The answer, with its picture if one is wanted, unless a policy could do nothing with it."""
        begun, steps = self._episodes[place]
        leaves = self._open[place].spec.observations
        check_step(
            answer.observation, leaves, f"{self._places[place].name}: seed {begun.seed}: step {steps}: observation"
        )
        wrong = _unusable(answer, leaves)
        if wrong:
            return self._fail(place, f"step {steps}: {wrong}")
        if begun.film:
            try:
                answer.frame = _picture(self._open[place].frame())
            except Exception as error:  # what cannot be drawn can still be played
                answer.undrawn = _words(error)
        return answer

    def _fail(self, place: int, reason: str) -> Failure:
        self._drop(place)
        return Failure("raised", reason)

    def _drop(self, place: int) -> None:
        environment = self._open.pop(place, None)
        with contextlib.suppress(Exception):  # one that is broken may not even close
            if environment is not None:
                environment.close()


def _unusable(answer: Answer, leaves: Mapping[str, LeafSpec]) -> str:
    """What is wrong with an answer of the right shapes: a number that is none, a value that the spec does not know."""
    if not abs(answer.reward) <= np.finfo(np.float32).max:  # NaN is not, either
        return f"the reward is {answer.reward}"
    for path, leaf in leaves.items():
        value, limit = answer.observation[path], leaf.values or 0
        if leaf.modality == "text":
            value.encode()  # UnicodeEncodeError where a file or a page was decoded badly
        elif leaf.modality == "continuous" and not np.isfinite(value).all():
            return f"observation {path!r} holds NaN or infinity"
        elif leaf.modality == "discrete" and not ((np.asarray(value) >= 0) & (np.asarray(value) < limit)).all():
            return f"observation {path!r} holds a value outside 0..{limit - 1}"
    return ""


def _picture(frame: Any) -> np.ndarray:
    picture = np.asarray(frame, np.uint8)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a frame of shape {picture.shape} instead of [height, width, 3]")
    return picture


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# A worker's clock, in shared memory: how many things it began, the place it is busy with (-1: none), whether it builds.
_COUNT, _PLACE, _BUILDING = range(3)


class _Worker:
    """One process of simulators, as its parent sees it; started when it gets its first commands, and again after it
    died.
    """

    def __init__(self, places: Mapping[int, Place], step_seconds: float, build_seconds: float) -> None:
        self.places = places
        self._step_seconds, self._build_seconds = step_seconds, build_seconds
        self._process: Any = None

    def send(self, commands: Mapping[int, Command]) -> None:
        if self._process is None:
            self._start()
        self._looked, self._changed = -1, time.monotonic()
        with contextlib.suppress(OSError):  # it died: `receive` finds out
            self._connection.send(commands)

    def signs(self) -> tuple[Any, Any]:
        """What becomes ready when the process answers or dies."""
        return self._connection, self._process.sentinel

    def receive(self) -> Mapping[int, Answer | Failure] | None:
        """The answers; failures of all places if the process died or had to be killed; None if it is still at work."""
        died = not self._process.is_alive()  # before looking for an answer: it may answer and then die
        try:
            if self._connection.poll():
                reply = self._connection.recv()
                if isinstance(reply, GatoError):
                    raise reply
                return reply
        except (EOFError, OSError, pickle.UnpicklingError):
            died = True
        if died:
            self._process.join(_PATIENCE)
            return self._failures("crashed", _describe(self._process.exitcode))
        limit = self._too_long()
        return None if limit is None else self._failures("hung", f"no answer within {limit:g} s")

    def ask_to_end(self) -> None:
        """Lets the process close its environments."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)

    def end(self) -> None:
        """Waits for that, and kills the process if it takes too long."""
        if self._process is not None:
            self._process.join(_PATIENCE)
            self._kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # no fork: the parent may hold JAX's threads
        self._clock = context.RawArray("q", [0, -1, 1])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.places, theirs, self._clock), daemon=True)
        self._process.start()
        theirs.close()

    def _too_long(self) -> float | None:
        """The limit that was exceeded, if one was."""
        if self._clock[_COUNT] != self._looked:
            self._looked, self._changed = self._clock[_COUNT], time.monotonic()
        limit = self._build_seconds if self._clock[_BUILDING] else self._step_seconds
        return limit if time.monotonic() - self._changed > limit else None

    def _failures(self, kind: Kind, reason: str) -> Mapping[int, Failure]:
        guilty = self._clock[_PLACE]
        self._kill()
        beside = Failure("beside", f"its process also held an environment that {kind}: {reason}")
        return {place: Failure(kind, reason) if guilty in (place, -1) else beside for place in self.places}

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()
        self._process = None


def _serve(places: Mapping[int, Place], connection: Any, clock: Any) -> None:
    """A worker process from start to end."""
    start_worker()
    environments = _Environments(places)

    def notice(place: int, building: bool) -> None:
        clock[_PLACE], clock[_BUILDING] = place, building
        clock[_COUNT] += 1

    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        while (commands := connection.recv()) is not None:
            reply: Any
            try:
                reply = {place: environments.do(place, command, notice) for place, command in commands.items()}
            except GatoError as error:
                reply = error
            connection.send(reply)
            clock[_PLACE] = -1
        environments.close()


def _describe(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
