"""The whole evaluation of a tiny untrained run on the toy suite, and the contract of what it writes."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import pytest

from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.sources.captions import CAPTION_SPEC, QUESTION_SPEC
from gato.data_pipelines.store_writer import StoreWriter
from gato.evaluation import specialist
from gato.evaluation.demonstrations import Demonstrations, EvaluationError, open_demonstrations
from gato.evaluation.evaluate import evaluate
from gato.evaluation.jobs import PlayJob, WriteJob, common_beginning, plan_jobs, worker_agent
from gato.inference.agent import AgentError
from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint import Checkpoints
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta
from gato.training.config import TrainConfig
from gato.training.run_directory import prepare
from gato.training.step import TrainState

TASKS = ("toy/match", "toy/hopeless")


def untrained_run(folder, tasks, documents=()):
    """A run directory: stores, config.json and a checkpoint of a network that has learned nothing."""
    text = TextTokenizer.default()
    vocabulary = Vocabulary(text.size)
    sources, described = [], {}
    for name in tasks:
        task, path = get_task(name), folder / "data" / name
        environment = task.make()
        with StoreWriter(path, name, environment.spec, {"task": name}) as writer:
            for index in range(6):
                writer.write(demonstration(task, environment, index, seed=0))
        sources.append(SourceConfig(path, window_timesteps=2, prompt_timesteps=2, held_out_episodes=2))
        described[name] = SourceMeta(environment.spec, name, 2, 2)
    config = TrainConfig(model=preset("tiny", vocabulary), sources=tuple(sources), length=128, batch_size=2, steps=1)
    prepare(folder / "run", config)
    recipe = get_recipe("gato")
    meta = CheckpointMeta(
        model=config.model,
        vocabulary=vocabulary,
        text_model=text.model_bytes,
        recipe=recipe.name,
        layout=recipe.layout,
        sources=described | {name: SourceMeta(spec) for name, spec in documents},
        length=config.length,
    )
    checkpoints = Checkpoints(folder / "run", keep=1)
    params = jax.jit(init_params, static_argnums=0)(config.model, jax.random.key(0))
    checkpoints.save(1, TrainState(jnp.int32(1), params, {"moment": jnp.zeros(1)}), {}, meta)
    checkpoints.wait()
    checkpoints.close()
    return folder / "run"


@pytest.fixture(scope="module")
def run(toy_suite, tmp_path_factory):
    """Two toy tasks, captions and questions."""
    documents = (("captions/rooms", CAPTION_SPEC), ("questions/rooms", QUESTION_SPEC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialist, "SpecialistConfig", lambda: SMALL)
        yield untrained_run(tmp_path_factory.mktemp("toy"), TASKS, documents)


SMALL = specialist.SpecialistConfig(width=16, embedding=4, batch=16, updates=3)


def test_an_evaluation_writes_what_others_read(run):
    pytest.importorskip("minigrid")
    summary = evaluate(run, episodes=3, documents=3, processes=1, progress=False)
    folder = run / "evaluation"
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
    assert all(sample["image"].startswith("data:image/png") and sample["expected"] for sample in samples)
    assert {bool(sample["question"]) for sample in samples} == {True, False}
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 3 * (2 + 1 + 2)  # two tasks and a control by the agent, two tasks by specialists
    assert math.isclose(
        sum(e["success"] for e in episodes if (e["task"], e["policy"]) == ("toy/match", "agent")) / 3, entry["score"]
    )


def test_chosen_tasks_without_specialists(run, tmp_path):
    summary = evaluate(run, ["toy/hopeless"], 2, specialists=False, out=tmp_path / "here", processes=1, progress=False)
    assert list(summary["tasks"]) == ["toy/hopeless"]
    assert summary["overall"] is None
    assert "specialist" not in summary["tasks"]["toy/hopeless"]
    assert (tmp_path / "here" / "summary.json").exists()
    with pytest.raises(AgentError, match="did you mean 'toy/match'"):
        evaluate(run, ["toy/mach"], processes=1, progress=False)


def test_a_full_evaluation_is_not_replaced_by_a_partial_one(run, tmp_path):
    settings = {"episodes": 1, "specialists": False, "out": tmp_path, "processes": 1, "progress": False}
    evaluate(run, list(TASKS), **settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(EvaluationError, match=r"holds results of toy/hopeless, which .* give --out DIR"):
        evaluate(run, ["toy/match"], **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert evaluate(run, list(TASKS), **settings | {"episodes": 2})["tasks"]["toy/match"]["episodes"] == 2
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"summary\.json: is no evaluation's summary"):
        evaluate(run, list(TASKS), **settings)


def test_worker_processes_play_real_simulators_the_same_every_time(tmp_path):
    pytest.importorskip("minigrid")
    tasks = ("babyai/GoToRedBall", "babyai/OpenDoor")
    run_dir = untrained_run(tmp_path, tasks)
    settings = {"episodes": 2, "specialists": False, "processes": 2, "progress": False}
    first, second = (evaluate(run_dir, out=tmp_path / name, **settings) for name in ("a", "b"))
    assert list(first["tasks"]) == list(tasks)
    assert {name: entry["episodes"] for name, entry in first["tasks"].items()} == dict.fromkeys(tasks, 2)
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_prompts_are_held_out_and_successful(run, tmp_path):
    found = open_demonstrations(run)["toy/match"]
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
def test_failed_demonstrations_are_shown_only_where_none_succeeded(run, tmp_path, successes):
    """The only success is the last that was held out, so filtering comes before counting."""
    held_out = open_demonstrations(run)["toy/match"].held_out
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


def test_jobs_cover_every_line_once_and_the_longest_come_first(run):
    agent = worker_agent(next((run / "checkpoints").iterdir()), 0)
    settings = {"episodes": 4, "documents": 5, "specialists": True}
    jobs = plan_jobs(dict(agent.meta.sources), list(agent.meta.sources), agent, processes=2, **settings)
    played = [line.name for job in jobs if isinstance(job, PlayJob) and not job.specialist for line in job.lines]
    assert sorted(played) == ["toy/hopeless", "toy/match", "toy/match [blind]"]
    assert sum(isinstance(job, PlayJob) and not job.specialist for job in jobs) > 1
    assert [job.source for job in jobs if isinstance(job, WriteJob)] == ["captions/rooms", "questions/rooms"]
    assert [job.cost for job in jobs] == sorted((job.cost for job in jobs), reverse=True)
    alone = plan_jobs(dict(agent.meta.sources), list(TASKS), agent, processes=1, **settings)
    assert sum(not job.specialist for job in alone) == 1


def test_the_beginning_that_captions_share():
    text = TextTokenizer.default()
    assert common_beginning(["a red ball, a green key", "a blue box", "a grey key"], text).strip() == "a"
    assert common_beginning(["yes", "no"], text) == ""
