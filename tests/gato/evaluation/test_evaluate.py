"""The whole evaluation of a tiny untrained run: the contract of what it writes, what it plays, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines.environments.base import UnknownTaskError
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.evaluation import specialist
from gato.evaluation.demonstrations import Demonstrations, EvaluationError, open_demonstrations
from gato.evaluation.evaluate import choose, evaluate
from gato.evaluation.jobs import Protocol
from gato.inference.sampling import SamplingError
from gato.inference.session import AgentError
from gato.training import manifest, run_lock
from gato.training.checkpoint import load_meta
from gato.training.checkpoint_meta import SourceMeta

TASKS = ("toy/match", "toy/hopeless")
HERE = {"processes": 1, "simulators": 0, "progress": False}


def test_an_evaluation_writes_what_others_read(toy_run, monkeypatch):
    pytest.importorskip("minigrid")
    small = specialist.SpecialistConfig(width=16, embedding=4, batch=16, updates=3)
    monkeypatch.setattr(specialist, "SpecialistConfig", lambda: small)
    summary = evaluate(toy_run, protocol=Protocol(3, documents=3), specialists=True, **HERE)
    folder = toy_run / "evaluation"
    assert json.loads((folder / "summary.json").read_text()) == summary
    entry = summary["tasks"]["toy/match"]
    assert {"score", "low", "high", "random", "expert", "normalised", "episodes", "specialist"} <= set(entry)
    assert entry["episodes"] == 3
    assert entry["normalised"] == pytest.approx(100 * (entry["score"] - 0.5) / 0.5)
    assert summary["overall"] == entry["normalised"]  # the hopeless task counts nowhere
    assert summary["tasks"]["toy/hopeless"]["normalised"] is None
    assert entry["controls"]["blind"] == summary["controls"]["toy/match"]["blind"]["score"]
    assert list(summary["tasks"]) == list(TASKS)
    assert set(summary["captions"]) == {"captions/rooms", "questions/rooms"}
    assert 0 <= summary["captions"]["captions/rooms"]["object_f1"] <= 1
    assert sorted(path.name for path in (folder / "gifs").iterdir()) == ["toy__hopeless.gif", "toy__match.gif"]
    samples = json.loads((folder / "captions.json").read_text())["samples"]
    assert len(samples) == 6
    assert all(
        (folder / sample["image"]).read_bytes().startswith(b"\x89PNG") and sample["expected"] for sample in samples
    )
    assert {bool(sample["question"]) for sample in samples} == {True, False}
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 3 * (2 + 1 + 2)  # two tasks and a control by the agent, two tasks by specialists
    assert math.isclose(
        sum(e["success"] for e in episodes if (e["task"], e["policy"]) == ("toy/match", "agent")) / 3, entry["score"]
    )


def test_chosen_tasks_without_specialists(toy_run, tmp_path):
    summary = evaluate(toy_run, ["toy/hopeless"], Protocol(2), out=tmp_path / "here", **HERE)
    assert list(summary["tasks"]) == ["toy/hopeless"]
    assert summary["overall"] is None
    assert "specialist" not in summary["tasks"]["toy/hopeless"]
    assert (tmp_path / "here" / "summary.json").exists()
    with pytest.raises(EvaluationError, match="did you mean 'toy/match'"):
        evaluate(toy_run, ["toy/mach"], **HERE)


@pytest.mark.usefixtures("toy_suite")
def test_specialists_without_data_are_said_to_be_missing(untrained_run, tmp_path, capsys):
    run_dir = untrained_run(tmp_path, ["toy/match"])
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    summary = evaluate(run_dir, protocol=Protocol(1), specialists=True, **HERE)
    assert "specialist" not in summary["tasks"]["toy/match"]
    assert "toy/match: no specialist, the run's config.json leads to no data for it" in capsys.readouterr().err


def test_a_full_evaluation_is_not_replaced_by_a_partial_one(toy_run, tmp_path):
    settings = {"protocol": Protocol(1), "out": tmp_path, **HERE}
    evaluate(toy_run, list(TASKS), **settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(EvaluationError, match=r"holds results of toy/hopeless, which .* give --out DIR"):
        evaluate(toy_run, ["toy/match"], **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(EvaluationError, match=r"with episodes 1 instead of 2, prompt beginning instead of end, which"):
        evaluate(toy_run, list(TASKS), **settings | {"protocol": Protocol(2, "end")})
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"summary\.json: is no evaluation's summary"):
        evaluate(toy_run, list(TASKS), **settings)


def test_a_second_evaluation_in_the_same_folder_waits_and_changes_nothing(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "WAIT", 0.0)
    settings = {"protocol": Protocol(1), "out": tmp_path, **HERE}
    with run_lock.only_one(tmp_path, "evaluation"):
        with pytest.raises(run_lock.LockError, match="another evaluation is under way there"):
            evaluate(toy_run, ["toy/match"], **settings)
        assert [path.name for path in tmp_path.iterdir()] == [".evaluation.lock"]
    assert evaluate(toy_run, ["toy/match"], **settings)["tasks"]["toy/match"]["episodes"] == 1


def test_the_papers_deployment_shows_a_long_prompt_and_acts_with_memory(toy_run, tmp_path):
    """A prompt of a whole training row, Transformer-XL memory: said in the summary, seen by the network."""
    entropies = {}
    for name, protocol in {
        "training": Protocol(2),
        "paper": Protocol(2, prompt_tokens=128, memory="memory"),
        "short": Protocol(2, memory="memory"),
    }.items():
        summary = evaluate(toy_run, ["toy/match"], protocol, out=tmp_path / name, **HERE)
        assert summary["protocol"] == dataclasses.asdict(protocol)
        entropies[name] = summary["tasks"]["toy/match"]["entropy"]
    assert len(set(entropies.values())) == 3


def test_sampling_is_part_of_the_protocol(toy_run, tmp_path):
    """The likeliest id is drawn at temperature 0, and where one id is left; results of other draws are kept."""
    episodes = {}
    ways = {"usual": {}, "greedy": {"temperature": 0.0}, "one": {"top_k": 1}, "few": {"top_p": 1e-6}}
    for name, sampling in ways.items():
        evaluate(toy_run, ["toy/hopeless"], Protocol(2, **sampling), out=tmp_path / name, **HERE)
        lines = map(json.loads, (tmp_path / name / "episodes.jsonl").read_text().splitlines())
        episodes[name] = [(line["return"], round(line["entropy"], 4)) for line in lines]
    assert episodes["greedy"] == episodes["one"] == episodes["few"] != episodes["usual"]
    assert ", temperature 0, seed 0." in (tmp_path / "greedy" / "report.html").read_text()
    with pytest.raises(EvaluationError, match=r"with temperature 0\.0 instead of None, which"):
        evaluate(toy_run, ["toy/hopeless"], Protocol(2), out=tmp_path / "greedy", **HERE)


def test_results_of_another_sampling_are_refused(toy_run, tmp_path):
    settings = {"out": tmp_path, **HERE}
    evaluate(toy_run, ["toy/hopeless"], Protocol(1), **settings)
    with pytest.raises(EvaluationError, match="with top_k None instead of 3, which"):
        evaluate(toy_run, ["toy/hopeless"], Protocol(1, top_k=3), **settings)


@pytest.mark.parametrize(
    ("protocol", "error", "message"),
    [
        (
            Protocol(prompt_tokens=129, memory="memory"),
            AgentError,
            "prompt_tokens is 129, but memory='memory' takes at",
        ),
        (Protocol(prompt_tokens=65), AgentError, "at most 64; memory='memory' takes up to 128"),
        (Protocol(top_p=0.0), SamplingError, "top_p must be above 0"),
        (Protocol(prompt="none", prompt_tokens=64), EvaluationError, "prompt_tokens is 64, but prompt 'none' shows"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_before_anything_is_played(toy_run, tmp_path, protocol, error, message):
    with pytest.raises(error, match=message):
        evaluate(toy_run, ["toy/match"], protocol, out=tmp_path / "here", **HERE)
    assert not (tmp_path / "here").exists()


@pytest.mark.usefixtures("no_marks")
def test_failures_are_counted_and_lost_episodes_have_no_score(unruly_suite, untrained_run, tmp_path, capsys):
    bad_numbers = ["unruly/blurs", "unruly/overpays"]
    run_dir = untrained_run(tmp_path, ["unruly/dies", "unruly/cursed", *bad_numbers], window=1)
    settings = {"protocol": Protocol(5), "processes": 1, "progress": False}
    summary = evaluate(run_dir, simulators=1, **settings)
    dies, cursed = (summary["tasks"][f"unruly/{name}"] for name in ("dies", "cursed"))
    assert dies["failures"]["crashed"] == 1
    assert (dies["episodes"], dies["lost"], cursed["episodes"], cursed["lost"]) == (5, 0, 0, 5)
    assert cursed["score"] is cursed["normalised"] is None
    assert cursed["undefined"] == "no episode finished"
    assert "the simulator is tired" in cursed["lost_because"]
    for name in bad_numbers:
        entry = summary["tasks"][name]
        assert (entry["failures"]["raised"], entry["episodes"], entry["lost"]) == (1, 5, 0)
    assert summary["lost"] == 5
    assert (summary["all"]["tasks"], summary["all"]["undefined"]) == (3, 1)
    page = (run_dir / "evaluation" / "report.html").read_text()
    assert "Environments that failed" in page
    assert "5 lost: raised: RuntimeError" in page
    undisturbed = evaluate(run_dir, ["unruly/dies"], simulators=0, out=tmp_path / "again", **settings)
    assert undisturbed["tasks"]["unruly/dies"]["score"] == dies["score"]
    assert undisturbed["failures"] == {}


def test_tasks_that_are_new_to_the_checkpoint(unruly_suite, untrained_run, toy_suite, tmp_path, capsys):
    """One of a known embodiment, one of another; both are shown what their expert does now."""
    run_dir = untrained_run(tmp_path, ["toy/match"])
    new = ["toy/hopeless", "unruly/steady"]
    summary = evaluate(run_dir, new, Protocol(2), **HERE)
    assert {entry["prompt"] for entry in summary["tasks"].values()} == {"of the task's expert, collected for this"}
    assert (run_dir / "evaluation" / "prompts" / "unruly" / "steady").is_dir()
    err = capsys.readouterr().err
    assert "toy/hopeless: new to this checkpoint; played with what it knows of toy/match's embodiment" in err
    assert "unruly/steady: a new embodiment for this checkpoint" in err
    given = evaluate(run_dir, ["toy/match"], Protocol(2), prompts=run_dir.parent / "data", out=tmp_path / "g", **HERE)
    assert given["tasks"]["toy/match"]["prompt"] == str(run_dir.parent / "data")
    none = evaluate(run_dir, ["toy/match"], Protocol(2, "none"), out=tmp_path / "n", **HERE)
    assert none["tasks"]["toy/match"]["prompt"] == "none"


def test_what_is_refused_leaves_no_folder(unruly_suite, untrained_run, toy_suite, tmp_path, monkeypatch):
    run_dir, out = untrained_run(tmp_path, ["toy/match"]), tmp_path / "out"
    with pytest.raises(EvaluationError, match=r"holds no store of unruly/steady; .* as `gato collect` writes them"):
        evaluate(run_dir, ["unruly/steady"], prompts=run_dir.parent / "data", out=out, **HERE)
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(EvaluationError, match="needs the package ray, which is not installed"):
        evaluate(run_dir, ["toy/match"], executor="ray", out=out, **HERE)
    assert not out.exists()


def test_a_recipe_without_a_target_for_a_new_embodiment_is_refused_before_anything_is_played(toy_run, unruly_suite):
    meta = load_meta(toy_run)
    told = {
        name: dataclasses.replace(source, statistics={"target_return": 4.0}) for name, source in meta.sources.items()
    }
    meta = dataclasses.replace(meta, recipe="return_conditioned", sources=told)
    assert [choice.task for choice in choose(meta, list(TASKS), None)] == list(TASKS)
    with pytest.raises(EvaluationError, match=r"unruly/steady: its embodiment is new .* no target for it: leave"):
        choose(meta, [*TASKS, "unruly/steady"], None)


def test_suites_choose_the_tasks_that_the_checkpoint_has(toy_run):
    meta = load_meta(toy_run)
    assert [choice.task for choice in choose(meta, None, ["toy"])] == list(TASKS)
    assert [choice.source for choice in choose(meta, ["toy/match"], ["captions"])] == ["captions/rooms", "toy/match"]
    with pytest.raises(EvaluationError, match=r"has a suite 'toi'; did you mean 'toy'\?"):
        choose(meta, None, ["toi"])
    with pytest.raises(EvaluationError, match=r"'nowhere/at-all' is neither in this checkpoint \(known: captions/"):
        choose(meta, ["nowhere/at-all"], None)


def test_a_source_without_a_task_is_left_out_with_the_way_to_play_it(toy_run, capsys):
    meta = load_meta(toy_run)
    nameless = dataclasses.replace(meta.sources["toy/match"], task="")
    meta = dataclasses.replace(meta, sources={**meta.sources, "toy/match": nameless})
    assert "toy/match" not in [choice.source for choice in choose(meta, None, None)]
    err = capsys.readouterr().err
    assert "toy/match: left out: source 'toy/match' of the checkpoint names no task; " in err
    assert "--tasks SUITE/TASK" in err
    assert "the end of docs/data.md" in err


def test_imported_pictures_are_left_out_with_the_way_to_look_at_them(toy_run, tmp_path, capsys):
    """There is a score for rendered rooms alone, also where imported pictures took their name."""
    (tmp_path / "shop").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "shop" / "a.png")
    (tmp_path / "shop" / "captions.jsonl").write_text('{"image": "a.png", "text": "a chair"}\n')
    import_source(SourceReference(str(tmp_path / "shop")), tmp_path / "store", progress=False)
    pictures, meta = SourceMeta(Store(tmp_path / "store").spec), load_meta(toy_run)
    meta = dataclasses.replace(meta, sources=meta.sources | {"lab/shop": pictures, "captions/rooms": pictures})
    assert {choice.source for choice in choose(meta, None, None)} == {"questions/rooms", *TASKS}
    err = capsys.readouterr().err
    for name in ("lab/shop", "captions/rooms"):
        assert f"{name}: left out: source '{name}' of the checkpoint has imported pictures, and only rendered" in err
        with pytest.raises(UnknownTaskError, match=f"--image=FILE --source={name} shows what it writes"):
            choose(meta, [name], None)


def test_a_suite_that_is_new_to_the_checkpoint_is_played_as_a_whole(toy_run, unruly_suite, capsys):
    chosen = choose(load_meta(toy_run), None, ["unruly"])
    assert [choice.task for choice in chosen] == sorted(unruly_suite.task_names())
    assert {choice.source for choice in chosen} == {""}
    err = capsys.readouterr().err
    assert err == (
        f"unruly/blurs, unruly/cursed, unruly/dies and {len(chosen) - 3} more: a new embodiment for this checkpoint\n"
    )


def test_another_checkpoint_is_evaluated_anew_and_no_old_film_stays(toy_run, toy_suite, tmp_path, monkeypatch):
    """Its films cannot be drawn: that is said, and those of the checkpoint before are not shown for them."""
    settings = {"protocol": Protocol(2), "out": tmp_path / "out", **HERE}
    evaluate(toy_run, list(TASKS), **settings)
    before = set((tmp_path / "out" / "jobs").iterdir())
    (checkpoint,) = (toy_run / "checkpoints").iterdir()
    other = checkpoint.with_name("2")

    def undrawn(environment):
        raise RuntimeError("no display")

    monkeypatch.setattr(toy_suite.Toy, "frame", undrawn)
    try:
        shutil.copytree(checkpoint, other)
        sums = (other / manifest.FILE).read_text().splitlines(keepends=True)
        (other / manifest.FILE).write_text("".join(reversed(sums)))  # as whole as the first, and another
        summary = evaluate(other, list(TASKS), **settings)
    finally:
        shutil.rmtree(other)
    assert {entry["no_film"] for entry in summary["tasks"].values()} == {"RuntimeError: no display"}
    assert before.isdisjoint((tmp_path / "out" / "jobs").iterdir())
    assert not list((tmp_path / "out" / "gifs").iterdir())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no film: RuntimeError: no display" in page
    assert "image/gif" not in page


def test_results_of_other_simulators_are_neither_mixed_nor_replaced(unruly_suite, untrained_run, tmp_path, monkeypatch):
    run_dir = untrained_run(tmp_path, ["unruly/steady"])
    settings = {"protocol": Protocol(1), **HERE}
    evaluate(run_dir, **settings)
    package = Path(os.environ["UNRULY_MARKS"]) / "unruly-0.dist-info" / "METADATA"
    written = package.read_text()
    package.write_text(written.replace("Version: 0", "Version: 1"))
    try:
        with pytest.raises(
            EvaluationError, match="holds an evaluation with unruly 0 instead of 1, which this one would"
        ):
            evaluate(run_dir, **settings)
    finally:
        package.write_text(written)
    monkeypatch.setattr(unruly_suite, "STEPS", 4)
    with pytest.raises(EvaluationError, match="with max_steps of unruly/steady 5 instead of 4, which"):
        evaluate(run_dir, **settings)


def test_prompts_are_held_out_and_successful(toy_run, tmp_path):
    found = open_demonstrations(toy_run)["toy/match"]
    assert not set(found.train) & set(found.held_out)
    assert len(found.train) + len(found.held_out) == 6
    held = {found.store.episode(int(index)).metadata["episode_id"] for index in found.held_out}
    prompts = found.prompts(5)
    assert len(prompts) == 5
    assert {prompt.metadata["episode_id"] for prompt in prompts} == held
    assert all(prompt.metadata["success"] for prompt in prompts)
    with pytest.raises(EvaluationError, match=r"config\.json"):
        open_demonstrations(tmp_path)


@pytest.mark.parametrize("successes", [1, 0])
def test_failed_demonstrations_are_shown_only_where_none_succeeded(toy_run, tmp_path, successes):
    """The only success is the last that was held out, so filtering comes before counting."""
    held_out = open_demonstrations(toy_run)["toy/match"].held_out
    source = SourceConfig(tmp_path / "store", held_out_episodes=len(held_out), expert_filter=None)
    task = get_task("toy/match")
    with StoreWriter(tmp_path / "store", "toy/match", task.make().spec, {"task": task.name}) as writer:
        for index in range(6):
            episode = demonstration(task, task.make(), index, seed=0)
            episode.metadata["success"] = bool(successes) and index == held_out[-1]
            writer.write(episode)
    found = Demonstrations(source, seed=0)
    assert found.held_out.tolist() == held_out.tolist()
    for count in (1, 3):
        assert [prompt.metadata["success"] for prompt in found.prompts(count)] == [bool(successes)] * count
