"""Scores to normalise by: where they come from, and that none is invented."""

from __future__ import annotations

import dataclasses
import math

import pytest

from gato.data_pipelines.environments import catalogue, references, sokoban
from gato.data_pipelines.environments.references import other_protocols, reference_scores, reference_sources
from gato.data_pipelines.environments.registry import get_suite, get_task


def test_every_score_belongs_to_a_task_and_has_a_source():
    published = references.load_published()
    known = {name for tasks in catalogue.load_catalogue().values() for name in tasks}
    assert set(published["scores"]) | set(published["other_protocols"]) <= known
    assert set(references.load_references()["tasks"]) <= known
    used = {entry["source"] for agents in published["scores"].values() for entry in agents.values()}
    used |= {entry["source"] for entries in published["other_protocols"].values() for entry in entries}
    assert used == set(published["sources"])
    for agents in published["scores"].values():
        assert set(agents) <= set(references.AGENTS)
        assert all(math.isfinite(entry["score"]) for entry in agents.values())


def test_measured_records_fit_the_tasks_of_today():
    for name, record in references.load_references()["tasks"].items():
        about = catalogue.load_catalogue()[name.partition("/")[0]][name]
        assert (record["metric"], record["max_steps"]) == (about["metric"], about["max_steps"]), name
        assert record["versions"], name  # of the simulators that it was measured with


def test_our_own_measurement_counts_before_a_published_one():
    name = "dm_control/pendulum-swingup"
    own = references.load_references()["tasks"][name]["expert"]
    published = references.load_published()["scores"][name]["expert"]["score"]
    assert own != published
    assert reference_scores(name)[1] == own
    assert reference_sources(name)["expert"] == "measured"
    assert reference_sources("dm_control/walker-walk")["expert"] == "TD-MPC2"


def test_the_same_simulation_shown_otherwise_has_the_same_scores():
    assert reference_scores("dm_control-pixels/reacher-easy") == reference_scores("dm_control/reacher-easy")
    assert reference_scores("metaworld-full/reach-v3") == reference_scores("metaworld/reach-v3")


@pytest.mark.parametrize("name", ["ale/alien", "dm_control-random-small/walker-walk", "mujoco/HalfCheetah-v5"])
def test_other_protocols_are_never_normalised_with(name):
    assert math.isnan(reference_scores(name)[1])
    assert "expert" not in reference_sources(name)
    if not name.startswith("dm_control-random"):
        assert {"expert", "source"} <= set(other_protocols(name)[-1])


def test_a_task_has_the_known_scores_where_its_suite_gives_none(monkeypatch):
    name = "sokoban/7x7-1box"
    task = get_task(name)
    assert (task.random_score, task.expert_score) == reference_scores(name)
    own = dataclasses.replace(
        get_suite("sokoban"), make_task=lambda name: dataclasses.replace(task, random_score=0.125)
    )
    monkeypatch.setattr(sokoban, "SUITE", own)
    assert (get_task(name).random_score, get_task(name).expert_score) == (0.125, task.expert_score)
