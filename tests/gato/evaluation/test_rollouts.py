from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.environments.base import EVALUATION_SEED
from gato.evaluation.rollouts import PROMPTS, Entry, Seat, plan_seats, rollout
from gato.tokenizers.errors import SpecError


class Player:
    """Plays row by row: right, or always wrong; notes every call."""

    entropies = None

    def __init__(self, right: list[bool]) -> None:
        self.right = list(right)
        self.batches: list[int] = []
        self.restarts: list[list[int]] = []
        self.rewards: list[Any] = []

    def act(self, observations, rewards=None):
        assert len(observations) == len(self.right)
        self.batches.append(len(observations))
        self.rewards.append(rewards)
        best = [int(np.argmax(o["numbers"])) for o in observations]
        return [
            {"choice": b if right else (b + 1) % 3, "push": np.zeros(1)}
            for b, right in zip(best, self.right, strict=True)
        ]

    def restart(self, rows, seeds):
        assert len(rows) == len(seeds)
        self.restarts.append(list(rows))

    def keep(self, rows):
        self.right = [self.right[row] for row in rows]


def entries(toy_suite, count, metric="success", episodes=5, film=0):
    made: list[Any] = []

    def make():
        made.append(toy_suite.Toy())
        return made[-1]

    return [Entry(f"toy/{i}", make, metric, episodes, toy_suite.STEPS, film) for i in range(count)], made


def test_seats_are_shared_evenly_and_the_prompt_of_an_episode_does_not_depend_on_them(toy_suite):
    for count, episodes, environments in ((3, 4, 7), (3, 4, 100), (1, 50, 40), (1, 50, 1), (5, 20, 40), (7, 3, 4)):
        chosen, _ = entries(toy_suite, count, episodes=episodes)
        batches = plan_seats(chosen, environments)
        assert all(0 < len(batch) <= environments for batch in batches)
        prompts = [
            (seat.entry, episode, seat.prompt)
            for batch in batches
            for seat in batch
            for episode in range(seat.number, episodes, seat.of)
        ]
        assert sorted(prompts) == [(e, k, k % PROMPTS) for e in range(count) for k in range(episodes)]
    assert [len(batch) for batch in plan_seats(entries(toy_suite, 5, episodes=20)[0], 40)] == [40]


def test_every_seed_is_played_once_and_success_ends_the_episode(toy_suite):
    chosen, made = entries(toy_suite, 2)
    (seats,) = plan_seats(chosen, 8)
    finished: list[str] = []
    player = Player([seat.entry == 0 for seat in seats])
    outcomes = rollout(player, chosen, seats, seed=3, progress=finished.append)
    first = EVALUATION_SEED + 3 * 10_000
    assert [(o.entry, o.seed) for o in outcomes] == [(f"toy/{e}", first + k) for e in (0, 1) for k in range(5)]
    assert sorted(finished) == ["toy/0"] * 5 + ["toy/1"] * 5
    good, bad = outcomes[:5], outcomes[5:]
    assert all(o.success and o.steps == 2 and o.score("success") == 1.0 for o in good)
    assert all(o.success is False and o.steps == toy_suite.STEPS and o.score("success") == 0.0 for o in bad)
    assert all(environment.closed for environment in made)
    assert len(made) == 8


def test_a_return_counts_the_whole_episode(toy_suite):
    chosen, _ = entries(toy_suite, 1, metric="return")
    outcomes = rollout(Player([True]), chosen, [Seat(0)])
    assert {(o.score("return"), o.steps) for o in outcomes} == {(toy_suite.STEPS, toy_suite.STEPS)}


def test_idle_rows_leave_the_batch_and_the_rest_plays_on(toy_suite):
    chosen, _ = entries(toy_suite, 2, episodes=12)
    seats = [*(Seat(0, i, 12) for i in range(12)), Seat(1, 0, 2), Seat(1, 1, 2)]
    player = Player([seat.entry == 0 for seat in seats])
    outcomes = rollout(player, chosen, seats)
    assert len(outcomes) == 24
    assert sorted(set(player.batches)) == [2, 14]
    assert player.batches == sorted(player.batches, reverse=True)


def test_rewards_follow_their_rows_and_vanish_at_a_restart(toy_suite):
    chosen, _ = entries(toy_suite, 1, episodes=2)
    player = Player([True])
    rollout(player, chosen, [Seat(0)])
    assert player.rewards[0] is None
    assert [float(r[0]) for r in player.rewards[1:]] == [1.0, 0.0, 1.0]
    assert player.restarts == [[0], [0]]


def test_an_observation_that_does_not_match_is_named(toy_suite):
    class Torn(toy_suite.Toy):
        def _draw(self):
            whole = super()._draw()
            return {**whole, "cell": np.zeros(2, np.int64)} if self.steps == 2 else whole

    entry = Entry("toy/torn", Torn, "return", 1, toy_suite.STEPS)
    with pytest.raises(
        SpecError, match=r"toy/torn: seed 1000000: step 2: .*'cell' has shape \(2,\), the spec says \(\)"
    ):
        rollout(Player([True]), [entry], [Seat(0)])


def test_the_first_episode_is_filmed(toy_suite):
    chosen, _ = entries(toy_suite, 1, episodes=3, film=1)
    outcomes = rollout(Player([False]), chosen, [Seat(0)])
    assert [o.frames is not None for o in outcomes] == [True, False, False]
    assert outcomes[0].frames.shape == (toy_suite.STEPS + 1, 8, 8, 3)


def test_an_entry_may_begin_with_any_round_of_its_demonstrations(toy_suite):
    """Its second four episodes: their seeds, their demonstrations, and no film, which is of the first episode."""
    chosen, _ = entries(toy_suite, 1, episodes=8, film=1)
    whole = rollout(Player([False]), chosen, [Seat(0)])
    part = dataclasses.replace(chosen[0], start=4, episodes=4)
    (seats,) = plan_seats([part], 8)
    second = rollout(Player([False] * 4), [part], seats)
    assert [(o.seed, o.steps, o.score_return) for o in second] == [(o.seed, o.steps, o.score_return) for o in whole[4:]]
    assert [seat.prompt for seat in seats] == [(4 + seat.number) % PROMPTS for seat in seats]
    assert all(o.frames is None and not o.no_film for o in second)
