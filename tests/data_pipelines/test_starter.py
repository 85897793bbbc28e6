"""The starter mixture and its reference scores."""

import json

import pytest

from gato.data_pipelines import measure_references
from gato.data_pipelines.environments import references
from gato.data_pipelines.environments.registry import get_source, get_task
from gato.data_pipelines.starter import STARTER, starter_tasks
from gato.tokenizers.spec import LeafSpec


def test_every_source_exists_and_every_task_has_an_expert_better_than_chance():
    modalities = set()
    for plan in STARTER:
        source = get_source(plan.name)
        spec = source.spec if hasattr(source, "spec") else source.make().spec
        modalities |= {leaf.modality for leaf in (*spec.observations.values(), *spec.actions.values())}
    assert modalities == {"text", "image", "discrete", "continuous"}
    for name in starter_tasks():
        task = get_task(name)
        span = task.expert_score - task.random_score
        assert span > (0.3 if task.metric == "success" else 5), name


def test_measuring_merges_into_the_file_and_reproduces_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "reference_scores.json"
    path.write_text(json.dumps({"tasks": {"other/task": {"random": 0.5, "expert": 0.75}}}))
    monkeypatch.setattr(references, "PATH", path)
    monkeypatch.setattr(measure_references, "PATH", path)
    try:
        for _ in range(2):
            measure_references.main(["babyai/PickupLoc", "--episodes", "12"])
            references.load_references.cache_clear()
            assert references.reference_scores("other/task") == (0.5, 0.75)
            record = references.load_references()["tasks"]["babyai/PickupLoc"]
            assert record["expert"] == 1.0
            assert record["random"] < 0.5
            assert record["episodes"] == 12
        first, second = capsys.readouterr().out.splitlines()
        assert first == second
    finally:
        monkeypatch.undo()
        references.load_references.cache_clear()


def test_unmeasured_tasks_have_no_score():
    random_score, expert_score = references.reference_scores("nobody/measured-this")
    assert random_score != random_score
    assert expert_score != expert_score


def test_a_reference_needs_two_episodes():
    with pytest.raises(SystemExit):
        measure_references.main(["babyai/PickupLoc", "--episodes", "1"])


def test_spec_of_every_metaworld_task_is_bounded():
    assert get_task("metaworld/reach-v3").make().spec.actions["action"] == LeafSpec(
        "continuous", (4,), low=-1.0, high=1.0
    )
