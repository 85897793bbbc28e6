import json
from pathlib import Path

import numpy as np

from gato.data_pipelines.filters import expert_return, hold_out, keep_expert

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "training.json").read_text())["expert_filter"]


def test_golden_expert_filter():
    returns = np.array(GOLDEN["returns"])
    assert len(returns) // 10 == GOLDEN["window"]
    np.testing.assert_allclose(expert_return(returns), GOLDEN["expert_return"], rtol=1e-12)
    kept = keep_expert(returns, np.zeros(len(returns), int), 0.8)
    assert np.flatnonzero(kept).tolist() == GOLDEN["kept"]


def test_window_is_at_least_one_and_at_most_a_thousand():
    assert expert_return(np.array([1.0, 5.0, 2.0])) == 5.0
    returns = np.zeros(20_000)
    returns[5000:5500] = 1.0
    np.testing.assert_allclose(expert_return(returns), 0.5)


def test_groups_are_judged_apart():
    returns = np.array([100.0, 90.0, 10.0, 1.0, 0.9, 0.1])
    groups = np.array([0, 0, 0, 1, 1, 1])
    assert keep_expert(returns, groups, 0.8).tolist() == [True, True, False, True, True, False]


def test_a_source_without_returns_is_kept():
    assert keep_expert(np.zeros(7), np.zeros(7, int)).all()


def test_hold_out_partitions_and_depends_on_seed_and_name_only():
    episodes = np.arange(3, 60, 2)
    train, held_out = hold_out(episodes, 5, 0, "a")
    assert len(held_out) == 5
    assert sorted([*train, *held_out]) == episodes.tolist()
    assert hold_out(episodes, 5, 0, "a")[1].tolist() == held_out.tolist()
    others = [hold_out(episodes, 5, 1, "a")[1].tolist(), hold_out(episodes, 5, 0, "b")[1].tolist()]
    assert held_out.tolist() not in others
    assert hold_out(episodes, 0, 0, "a")[0].tolist() == episodes.tolist()
