"""The starter mixture and its reference scores."""

import concurrent.futures
import dataclasses
import importlib.metadata
import json

import numpy as np
import pytest

from gato.data_pipelines import measure_references
from gato.data_pipelines.collect import collect
from gato.data_pipelines.environments import catalogue, references
from gato.data_pipelines.environments.registry import get_source, get_task
from gato.data_pipelines.starter import STARTER, starter_tasks
from gato.data_pipelines.store import Store
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary


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


def test_every_source_is_collected_and_becomes_tokens_with_a_target(tmp_path):
    plans = [dataclasses.replace(plan, episodes=1, max_steps=None if plan.max_steps is None else 5) for plan in STARTER]
    folders = collect(plans, tmp_path, processes=1, progress=False)
    text = TextTokenizer.default()
    tokenizer = SequenceTokenizer(Vocabulary(text.size), text, Layout())
    for plan in plans:
        store = Store(folders[plan.name])
        episode = store.episode(0)
        sequence = tokenizer.tokenize(episode.observations, episode.actions, store.spec)
        assert sequence.loss_weight.any(), plan.name
        if store.spec.actions:
            last = len(tokenizer.action_ranges(store.spec))
            decoded = tokenizer.decode_actions(sequence.ids[-last:][None], store.spec)
            for path, leaf in store.spec.actions.items():
                tolerance = 0 if leaf.modality == "discrete" else (leaf.high - leaf.low) / 1024
                np.testing.assert_allclose(
                    decoded[path][0], episode.actions[path][-1], atol=tolerance, err_msg=plan.name
                )


def test_measuring_has_examples(capsys):
    with pytest.raises(SystemExit):
        measure_references.main(["--help"])
    assert "gato.data_pipelines.measure_references metaworld" in capsys.readouterr().out.partition("examples:")[2]


def test_measuring_merges_into_the_file_and_reproduces_it_and_no_task_stops_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "reference_scores.json"
    path.write_text(json.dumps({"tasks": {"other/task": {"random": 0.5, "expert": 0.75}}}))
    monkeypatch.setattr(references, "PATH", path)
    monkeypatch.setattr(measure_references, "PATH", path)
    measure = measure_references.measure

    def measure_all_but_one(task, episodes):
        # As a simulator that random actions break does. A real one (dm_control's lqr) breaks in some runs only.
        if task.name == "babyai/OpenDoor":
            raise ValueError("the state\nis invalid")
        return measure(task, episodes)

    monkeypatch.setattr(measure_references, "measure", measure_all_but_one)
    try:
        for _ in range(2):
            measure_references.main(["babyai/OpenDoor", "babyai/PickupLoc", "--episodes", "12"])
            references.load_references.cache_clear()
            assert references.reference_scores("other/task") == (0.5, 0.75)
            record = references.load_references()["tasks"]["babyai/PickupLoc"]
            assert record["expert"] == 1.0
            assert record["random"] < 0.5
            assert record["episodes"] == 12
            assert record["versions"]["minigrid"] == importlib.metadata.version("minigrid")
            assert references.load_references()["tasks"]["other/task"] == {"random": 0.5, "expert": 0.75}
            assert "babyai/OpenDoor" not in references.load_references()["tasks"]
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == lines[2:]
        assert lines[0] == "babyai/OpenDoor: not measured: ValueError: the state is invalid"
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


def test_two_measurements_side_by_side_lose_nothing(tmp_path, monkeypatch):
    path = tmp_path / "reference_scores.json"
    path.write_text(json.dumps({"tasks": {}}))
    monkeypatch.setattr(references, "PATH", path)
    monkeypatch.setattr(measure_references, "PATH", path)
    monkeypatch.setattr(measure_references, "measure", lambda task, episodes: {"random": 0.5})
    names = catalogue.task_names("babyai")
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            list(threads.map(measure_references.main, [names[part::4] for part in range(4)]))
        assert list(json.loads(path.read_text())["tasks"]) == sorted(names)
    finally:
        monkeypatch.undo()
        references.load_references.cache_clear()
