from __future__ import annotations

import json

import numpy as np
import pytest

from gato.evaluation.scores import bootstrap_interval, normalise, summarise, task_entry


def test_random_is_zero_and_expert_is_hundred():
    assert normalise(0.2, 0.2, 0.9) == (0.0, None)
    assert normalise(0.9, 0.2, 0.9)[0] == pytest.approx(100)
    assert normalise(-1.0, 0.0, 10.0)[0] == pytest.approx(-10)


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


def test_the_entry_holds_the_specialist_beside_the_agent():
    entry = task_entry([1.0, 0.0], 0.0, 1.0, metric="success", specialist=[1.0, 1.0, 1.0, 0.0])
    assert (entry["score"], entry["specialist"], entry["specialist_normalised"]) == (0.5, 0.75, 75.0)
    assert entry["episodes"] == 2
    assert entry["low"] <= entry["score"] <= entry["high"]
    assert "specialist" not in task_entry([1.0], 0.0, 1.0, metric="success")
