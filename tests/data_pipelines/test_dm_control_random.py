"""Randomised physics: multipliers from their ranges, fixed by the seed, on a model of its own."""

from __future__ import annotations

import numpy as np
import pytest

from gato.data_pipelines.environments import dm_control_random
from gato.data_pipelines.environments.base import SuiteError
from gato.data_pipelines.environments.registry import get_task

SUITES = {
    "dm_control-random-small": ((0.9, 0.95), (1.05, 1.1)),
    "dm_control-random-large": ((0.6, 0.8), (1.2, 1.4)),
}
FIELDS = ("actuator_gear", "dof_damping", "geom_size", "jnt_stiffness")


def _physics(environment):
    model = environment.simulator.physics.model
    return {name: getattr(model, name).copy() for name in (*FIELDS, "geom_rbound", "geom_aabb")}


@pytest.mark.parametrize(("suite", "ranges"), SUITES.items())
@pytest.mark.parametrize("short", ["cheetah-run", "quadruped-walk", "ball_in_cup-catch"])
def test_multipliers_lie_in_their_ranges_and_scale_the_original(suite, ranges, short):
    original = _physics(get_task(f"dm_control/{short}").make())
    environment = get_task(f"{suite}/{short}").make()
    drawn = []
    for seed in (1_000_001, 1_000_002, 1_000_003):  # of the original, not of the episode before
        environment.reset(seed)
        physics = _physics(environment)
        for name in FIELDS:
            factors = environment.multipliers[name]
            expected = original[name] * factors.reshape(-1, *[1] * (original[name].ndim - 1))
            np.testing.assert_allclose(physics[name], expected, rtol=1e-12, err_msg=name)
            if name == "geom_size":
                geom_type = environment.simulator.physics.model.geom_type
                assert (factors[geom_type < 2] == 1).all(), "planes and height fields keep their size"
                factors = factors[geom_type >= 2]
                assert len(factors)
            drawn.append(factors)
    drawn = np.concatenate(drawn)
    below, above = ((drawn >= low) & (drawn <= high) for low, high in ranges)
    assert (below | above).all()
    assert below.any()
    assert above.any()


def test_both_sides_are_drawn_evenly():
    environment = get_task("dm_control-random-large/cheetah-run").make()
    values = []
    for seed in range(200):
        environment.reset(seed)
        values.append(environment.multipliers["actuator_gear"])
    values = np.concatenate(values)
    assert 0.45 < (values < 1).mean() < 0.55
    assert abs(values[values < 1].mean() - 0.7) < 0.01
    assert abs(values[values > 1].mean() - 1.3) < 0.01


def test_a_seed_fixes_the_body_and_another_seed_is_another():
    first, second = (get_task("dm_control-random-small/walker-walk").make() for _ in range(2))
    first.reset(1)
    second.reset(7)
    second.reset(1)
    for name, values in _physics(first).items():
        np.testing.assert_array_equal(values, _physics(second)[name], err_msg=name)
    second.reset(2)
    assert not np.array_equal(_physics(first)["actuator_gear"], _physics(second)["actuator_gear"])


def test_the_task_itself_is_untouched():
    def play(environment):
        values = [environment.reset(5)["velocity"]]
        for _ in range(50):
            observation, *_ = environment.step({"action": np.full(6, 0.5, np.float32)})
            values.append(observation["velocity"])
        return np.array(values)

    base = get_task("dm_control/cheetah-run").make()
    before = play(base)
    randomised = get_task("dm_control-random-large/cheetah-run").make()
    assert not np.array_equal(play(randomised), before)
    np.testing.assert_array_equal(play(base), before)
    np.testing.assert_array_equal(play(get_task("dm_control/cheetah-run").make()), before)


def test_contacts_are_found_with_the_new_sizes():
    """A ball that is dropped rests on the floor at its own radius, whatever that is."""
    environment = get_task("dm_control-random-large/quadruped-fetch").make()
    sizes = []
    for seed in (3, 4, 5, 6):
        environment.reset(seed)
        for _ in range(600):
            environment.step({"action": np.zeros(12, np.float32)})
        physics = environment.simulator.physics
        radius = physics.named.model.geom_size["ball", 0]
        assert abs(physics.named.data.xpos["ball", "z"] - radius) < 0.1 * radius
        sizes.append(round(float(radius), 6))
    assert len(set(sizes)) == len(sizes)


class _Limit:
    """Exceeded for as many attempts as it is told."""

    def __init__(self, attempts):
        self.attempts = attempts

    def __lt__(self, states):
        self.attempts -= 1
        return self.attempts >= 0


def test_a_body_without_an_initial_state_is_drawn_again(monkeypatch):
    environment = get_task("dm_control-random-large/ball_in_cup-catch").make()
    bodies = []
    for attempts in (0, 1, 2, 1):
        monkeypatch.setattr(dm_control_random, "_INITIAL_STATES", _Limit(attempts))
        environment.reset(5)
        bodies.append(tuple(environment.multipliers["actuator_gear"]))
    assert len(set(bodies)) == 3
    assert bodies[1] == bodies[3]
    monkeypatch.setattr(dm_control_random, "_INITIAL_STATES", 0)
    with pytest.raises(SuiteError, match="no initial state without contacts for 50 bodies"):
        environment.reset(5)
