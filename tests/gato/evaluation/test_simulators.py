"""Environments that raise, crash or hang, in processes: restarted, counted, and the rest is as if nothing had been."""

from __future__ import annotations

import functools
import multiprocessing

import numpy as np
import pytest

from gato.data_pipelines.environments import dm_control_random
from gato.data_pipelines.environments.base import MissingSuiteError
from gato.data_pipelines.environments.registry import get_task
from gato.evaluation.rollouts import ATTEMPTS, GIVE_UP, Entry, Seat, rollout
from gato.evaluation.simulators import Begin, Failure, InProcess, InProcesses, Place
from gato.tokenizers.errors import SpecError

EPISODES = 4  # the one that ends in UNLUCKY is among them


class Steady:
    """Acts by what it sees, so that an episode can be compared with itself."""

    entropies = None

    def act(self, observations, rewards=None):
        return [{"action": np.int32(o["numbers"][0] > 0)} for o in observations]

    def restart(self, rows, seeds):
        pass

    def keep(self, rows):
        pass


def play(suite, tasks, start, episodes=EPISODES):
    entries = [Entry(task, suite.Builder(task), "return", episodes, suite.STEPS) for task in tasks]
    return rollout(Steady(), entries, [Seat(i) for i in range(len(tasks))], start=start)


def about(outcomes):
    return [(o.entry, o.seed, o.score_return, o.steps, o.success) for o in outcomes]


@pytest.mark.usefixtures("no_marks")
@pytest.mark.parametrize(
    ("trouble", "kind", "reason"),
    [("dies", "crashed", "SIGKILL"), ("hangs", "hung", "within 10 s"), ("raises", "raised", "tired")],
)
def test_an_environment_that_fails_is_restarted_and_its_episode_repeated(unruly_suite, trouble, kind, reason):
    """Places 0 and 2 share a process; place 1 has its own and does not notice."""
    before = multiprocessing.active_children()  # other tests' loaders may still be there
    tasks = [trouble, "steady", "slow"]
    reasons: dict[str, str] = {}

    class Watched(InProcesses):
        def exchange(self, commands):
            answers = super().exchange(commands)
            reasons.update({tasks[place]: a.reason for place, a in answers.items() if isinstance(a, Failure)})
            return answers

    start = functools.partial(Watched, processes=2, step_seconds=10.0)
    outcomes = play(unruly_suite, tasks, start)
    undisturbed = play(unruly_suite, tasks, InProcess)  # the mark is set: nothing fails any more
    assert about(outcomes) == about(undisturbed)
    failures = {(o.entry, o.seed % 10): dict(o.failures) for o in outcomes if o.failures}
    expected = {(trouble, unruly_suite.UNLUCKY): {kind: 1}}
    if kind != "raised":
        expected["slow", 3] = {"beside": 1}  # equally far, as both play four episodes of five steps
    assert failures == expected
    assert reason in reasons[trouble]
    assert not any(o.lost for o in outcomes)
    assert {child.pid for child in multiprocessing.active_children()} <= {child.pid for child in before}


@pytest.mark.parametrize("processes", [0, 1])
def test_an_episode_that_fails_every_time_is_lost_and_the_task_given_up(unruly_suite, processes):
    start = functools.partial(InProcesses, processes=processes) if processes else InProcess
    outcomes = play(unruly_suite, ["cursed", "steady"], start, episodes=GIVE_UP + 2)
    lost = [o for o in outcomes if o.lost]
    assert [o.entry for o in lost] == ["cursed"] * (GIVE_UP + 2)
    assert [dict(o.failures) for o in lost] == [{"raised": ATTEMPTS}] * GIVE_UP + [{}] * 2
    assert lost[0].lost == "raised: RuntimeError: the simulator is tired"
    assert lost[-1].lost.startswith(f"not tried: {GIVE_UP} episodes in a row were lost (RuntimeError")
    assert about(o for o in outcomes if not o.lost) == about(play(unruly_suite, ["steady"], InProcess, GIVE_UP + 2))


@pytest.mark.usefixtures("no_marks")
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("blurs", "step 2: observation 'numbers' holds NaN or infinity"),
        ("overpays", "step 2: the reward is nan"),
        ("refuses", "SuiteError: no state to go on from"),
    ],
)
def test_a_bad_number_or_a_refusal_costs_its_episode_only(unruly_suite, trouble, reason):
    reasons = []

    class Watched(InProcess):
        def exchange(self, commands):
            answers = super().exchange(commands)
            reasons.extend(answer.reason for answer in answers.values() if isinstance(answer, Failure))
            return answers

    outcomes = play(unruly_suite, [trouble, "steady"], Watched)
    assert about(outcomes) == about(play(unruly_suite, [trouble, "steady"], InProcess))  # nothing fails any more
    assert {(o.entry, o.seed % 10): dict(o.failures) for o in outcomes if o.failures} == {(trouble, 3): {"raised": 1}}
    assert reasons == [reason]


@pytest.mark.parametrize(
    ("leaf", "value", "reason"),
    [
        ("cell", np.int64(4), "step 0: observation 'cell' holds a value outside 0..3"),
        ("numbers", np.array([0, 1, np.inf]), "step 0: observation 'numbers' holds NaN or infinity"),
        ("word", "caf\udce9", "UnicodeEncodeError: "),
    ],
)
def test_values_that_no_tokenizer_takes_are_failures(toy_suite, leaf, value, reason):
    class Strange(toy_suite.Toy):
        def _draw(self):
            return {**super()._draw(), leaf: value}

    answer = InProcess([Place("strange", Strange)]).exchange({0: Begin(1)})[0]
    assert isinstance(answer, Failure)
    assert answer.kind == "raised"
    assert answer.reason.startswith(reason)


def test_a_body_that_cannot_stand_costs_its_episode_only(monkeypatch):
    pytest.importorskip("dm_control")
    monkeypatch.setattr(dm_control_random, "_INITIAL_STATES", 0)
    task = get_task("dm_control-random-large/ball_in_cup-catch")
    answer = InProcess([Place(task.name, task.make)]).exchange({0: Begin(5)})[0]
    assert isinstance(answer, Failure)
    assert "no initial state without contacts for 50 bodies" in answer.reason


def test_a_suite_that_is_not_there_is_no_failure_of_an_environment():
    def make():
        raise MissingSuiteError("package mujoco is not installed")

    with pytest.raises(MissingSuiteError):
        InProcess([Place("any", make)]).exchange({0: Begin(1)})


def test_failures_name_their_cause(unruly_suite):
    class Broken(unruly_suite.Unruly):
        def reset(self, seed):
            raise ValueError("no such map")

    simulators = InProcess([Place("broken", functools.partial(Broken, "steady"))])
    assert simulators.exchange({0: Begin(1)})[0].reason == "ValueError: no such map"


@pytest.mark.parametrize("frame", [np.zeros((8, 8)), None])
def test_what_cannot_be_drawn_is_played_and_the_reason_is_kept(unruly_suite, frame):
    class Invisible(unruly_suite.Unruly):
        def frame(self):
            if frame is None:
                raise RuntimeError("no display")
            return frame

    make = functools.partial(Invisible, "steady")
    outcomes = rollout(Steady(), [Entry("invisible", make, "return", 2, unruly_suite.STEPS, film=1)], [Seat(0)])
    assert [o.steps for o in outcomes] == [unruly_suite.STEPS] * 2
    why = "RuntimeError: no display" if frame is None else "ValueError: a frame of shape (8, 8) instead of"
    assert outcomes[0].no_film.startswith(why)
    assert outcomes[1].no_film == "", "nobody wanted one"


def test_a_mistake_in_a_spec_travels_from_the_process(unruly_suite):
    simulators = InProcesses([Place("unruly/misfit", unruly_suite.Misfit)], processes=1)
    try:
        with pytest.raises(SpecError, match=r"unruly/misfit: seed 7: step 0: observation: leaf 'numbers' has shape"):
            simulators.exchange({0: Begin(7)})
    finally:
        simulators.close()
