from __future__ import annotations

import json

import numpy as np
import pytest

from gato.evaluation.scores import (
    aggregate,
    bootstrap_interval,
    interquartile_mean,
    normalise,
    success_interval,
    summarise,
    task_entry,
)


def test_random_is_zero_and_expert_is_hundred():
    assert normalise(0.2, 0.2, 0.9) == 0.0
    assert normalise(0.9, 0.2, 0.9) == pytest.approx(100)
    np.testing.assert_allclose(normalise(np.array([-1.0, 5.0]), 0.0, 10.0), [-10, 50])


@pytest.mark.parametrize(("random", "expert"), [(5.0, 5.0), (5.0, 4.0), (float("nan"), 4.0), (1.0, float("nan"))])
def test_an_expert_that_is_not_better_makes_the_score_undefined(random, expert):
    entry = task_entry([9.0, 9.0], random, expert, metric="return")
    assert entry["normalised"] is entry["normalised_low"] is entry["normalised_high"] is None
    assert "expert" in entry["undefined"]
    summary = summarise({"a/x": entry, "a/y": task_entry([0.5], 0.0, 1.0, metric="success")})
    assert summary["overall"] == summary["suites"]["a"] == pytest.approx(50)
    json.dumps(summary, allow_nan=False)


def test_nothing_defined_is_null_and_no_crash():
    entry = task_entry([1.0], 1.0, 1.0, metric="return")
    assert summarise({"a/x": entry})["overall"] is None
    assert summarise({})["overall"] is None


def test_overall_weighs_tasks_and_not_suites():
    entries = {
        name: task_entry([value], 0.0, 1.0, metric="success")
        for name, value in (("a/x", 1.0), ("a/y", 0.0), ("b/z", 1.0))
    }
    summary = summarise(entries)
    assert summary["overall"] == pytest.approx(200 / 3)
    assert summary["suites"] == {"a": pytest.approx(50), "b": pytest.approx(100)}


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, 40), resamples=400)
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_is_seeded_and_narrows_with_more_episodes():
    values = np.arange(20) % 2.0
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    low, high = bootstrap_interval(values)
    wide_low, wide_high = bootstrap_interval(values[:6])
    assert low < 0.5 < high
    assert high - low < wide_high - wide_low
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # As Newcombe (1998), table I, and statsmodels' proportion_confint(method="wilson").
    [
        (20, 20, 0.83887, 1.0),
        (0, 20, 0.0, 0.16113),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 1, 0.20654, 1),
    ],
)
def test_a_success_rate_has_wilsons_interval(successes, episodes, low, high):
    values = np.arange(episodes) < successes
    assert success_interval(values) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
    entry = task_entry(values, 0.5, 1.0, metric="success")
    assert (entry["low"], entry["high"]) == success_interval(values)
    assert entry["normalised_low"] == pytest.approx(100 * (entry["low"] - 0.5) / 0.5)


def test_the_entry_holds_the_specialist_beside_the_agent():
    entry = task_entry([1.0, 0.0], 0.0, 1.0, metric="success", specialist=[1.0, 1.0, 1.0, 0.0])
    assert (entry["score"], entry["specialist"], entry["specialist_normalised"]) == (0.5, 0.75, 75.0)
    assert entry["episodes"] == 2
    assert entry["low"] <= entry["score"] <= entry["high"]
    assert "specialist" not in task_entry([1.0], 0.0, 1.0, metric="success")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7.0), ([1.0, 2.0, 9.0], 4.0), ([0.0, 1.0, 2.0, 1000.0], 1.5), ([*range(8), 99], 4.0)],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    """As scipy's trim_mean(values, 0.25), which rliable uses."""
    assert interquartile_mean(np.array(values[::-1], np.float64)) == pytest.approx(expected)


def entries_of(episodes, random=0.0, expert=1.0):
    return {name: task_entry(values, random, expert, metric="return") for name, values in episodes.items()}


def test_one_huge_score_carries_the_mean_but_not_the_interquartile_mean():
    episodes = {f"a/{i}": np.full(5, 0.1 * i) for i in range(4)} | {"a/huge": np.full(5, 100.0)}
    found = aggregate(entries_of(episodes), episodes)
    assert found["mean"] == pytest.approx((0 + 10 + 20 + 30 + 10_000) / 5)
    assert found["iqm"] == pytest.approx(20)
    assert (found["tasks"], found["above_half"], found["undefined"]) == (5, 1, 0)
    assert (found["mean_low"], found["iqm_high"]) == (pytest.approx(found["mean"]), pytest.approx(20))  # no luck in it


def test_half_of_the_expert_is_not_above_half_and_what_has_no_scale_counts_nowhere():
    tasks = entries_of({"a/half": [0.5], "a/more": [0.51]}) | entries_of({"a/none": [9.0]}, 1.0, 1.0)
    tasks["a/lost"] = task_entry([], 0.0, 1.0, metric="success")
    found = aggregate(tasks)
    assert (found["tasks"], found["above_half"], found["undefined"]) == (2, 1, 2)
    assert tasks["a/lost"]["score"] is None
    assert "no episode finished" in tasks["a/lost"]["undefined"]
    assert aggregate({"a/none": tasks["a/none"]})["mean"] is None
    json.dumps(tasks, allow_nan=False)


def test_stratified_intervals_cover_the_mean_of_tasks_that_differ_much():
    """Tasks are given, so how much they differ must not widen the interval; the luck of 20 episodes each must."""
    rng, truth = np.random.default_rng(1), np.array([0.1, 0.5, 0.9, 0.9])
    covered, widths = 0, []
    for trial in range(60):
        episodes = {f"a/{i}": (rng.random(20) < p).astype(float) for i, p in enumerate(truth)}
        found = aggregate(entries_of(episodes), episodes, seed=trial)
        covered += found["mean_low"] <= 100 * truth.mean() <= found["mean_high"]
        widths.append(found["mean_high"] - found["mean_low"])
    assert covered >= 52
    deviation = 100 * np.sqrt((truth * (1 - truth) / 20).sum()) / 4
    assert np.mean(widths) == pytest.approx(2 * 1.96 * deviation, rel=0.15)
