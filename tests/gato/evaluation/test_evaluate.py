"""The whole evaluation of a tiny untrained run on the toy suite, and the contract of what it writes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.environments.base import EVALUATION_SEED
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.sources.captions import CAPTION_SPEC, QUESTION_SPEC
from gato.data_pipelines.store_writer import StoreWriter
from gato.evaluation import jobs, specialist
from gato.evaluation.demonstrations import Demonstrations, EvaluationError, open_demonstrations
from gato.evaluation.evaluate import choose, evaluate
from gato.evaluation.jobs import ActingAgent, PlayJob, Protocol, WriteJob, common_beginning, plan_jobs, worker_agent
from gato.evaluation.rollouts import PROMPTS, SEEDS_PER_RUN
from gato.inference.agent import Agent
from gato.inference.session import AgentError
from gato.tokenizers.text import TextTokenizer
from gato.training import manifest
from gato.training.checkpoint import load_meta

TASKS = ("toy/match", "toy/hopeless")
HERE = {"processes": 1, "simulators": 0, "progress": False}


@pytest.fixture(scope="module")
def run(toy_suite, untrained_run, tmp_path_factory):
    """Two toy tasks, captions and questions."""
    documents = (("captions/rooms", CAPTION_SPEC), ("questions/rooms", QUESTION_SPEC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialist, "SpecialistConfig", lambda: SMALL)
        yield untrained_run(tmp_path_factory.mktemp("toy"), TASKS, documents)


SMALL = specialist.SpecialistConfig(width=16, embedding=4, batch=16, updates=3)


def test_an_evaluation_writes_what_others_read(run):
    pytest.importorskip("minigrid")
    summary = evaluate(run, protocol=Protocol(3, documents=3), specialists=True, **HERE)
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
    summary = evaluate(run, ["toy/hopeless"], Protocol(2), out=tmp_path / "here", **HERE)
    assert list(summary["tasks"]) == ["toy/hopeless"]
    assert summary["overall"] is None
    assert "specialist" not in summary["tasks"]["toy/hopeless"]
    assert (tmp_path / "here" / "summary.json").exists()
    with pytest.raises(EvaluationError, match="did you mean 'toy/match'"):
        evaluate(run, ["toy/mach"], **HERE)


def test_a_full_evaluation_is_not_replaced_by_a_partial_one(run, tmp_path):
    settings = {"protocol": Protocol(1), "out": tmp_path, **HERE}
    evaluate(run, list(TASKS), **settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(EvaluationError, match=r"holds results of toy/hopeless, which .* give --out DIR"):
        evaluate(run, ["toy/match"], **settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(EvaluationError, match=r"with episodes 1 instead of 2, prompt beginning instead of end, which"):
        evaluate(run, list(TASKS), **settings | {"protocol": Protocol(2, "end")})
    summary = json.loads((tmp_path / "summary.json").read_text())
    del summary["protocol"]["memory"]  # as versions wrote it that had one memory only
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(EvaluationError, match="with memory window instead of memory, which"):
        evaluate(run, list(TASKS), **settings | {"protocol": Protocol(1, memory="memory")})
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"summary\.json: is no evaluation's summary"):
        evaluate(run, list(TASKS), **settings)


def test_the_papers_deployment_shows_a_long_prompt_and_acts_with_memory(run, tmp_path):
    """A prompt of a whole training row, Transformer-XL memory: said in the summary, seen by the network."""
    entropies = {}
    for name, protocol in {
        "training": Protocol(2),
        "paper": Protocol(2, prompt_tokens=128, memory="memory"),
        "short": Protocol(2, memory="memory"),
    }.items():
        summary = evaluate(run, ["toy/match"], protocol, out=tmp_path / name, **HERE)
        assert summary["protocol"] == dataclasses.asdict(protocol)
        entropies[name] = summary["tasks"]["toy/match"]["entropy"]
    assert len(set(entropies.values())) == 3


@pytest.mark.parametrize(
    ("protocol", "error", "message"),
    [
        (
            Protocol(prompt_tokens=129, memory="memory"),
            AgentError,
            "prompt_tokens is 129, but memory='memory' takes at",
        ),
        (Protocol(prompt_tokens=65), AgentError, "at most 64; memory='memory' takes up to 128"),
        (Protocol(prompt="none", prompt_tokens=64), EvaluationError, "prompt_tokens is 64, but prompt 'none' shows"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_before_anything_is_played(run, tmp_path, protocol, error, message):
    with pytest.raises(error, match=message):
        evaluate(run, ["toy/match"], protocol, out=tmp_path / "here", **HERE)
    assert not (tmp_path / "here").exists()


def test_real_simulators_are_played_the_same_in_any_number_of_processes(untrained_run, tmp_path, monkeypatch):
    pytest.importorskip("minigrid")
    monkeypatch.setattr(jobs, "LINES", 1)
    tasks = ("babyai/GoToRedBall", "babyai/OpenDoor")
    run_dir = untrained_run(tmp_path, tasks)
    settings = {"protocol": Protocol(2), "progress": False}
    networks = worker_agent.cache_info().misses
    first = evaluate(run_dir, out=tmp_path / "a", processes=2, simulators=1, **settings)
    assert worker_agent.cache_info().misses == networks, "only those who play load the network"
    second = evaluate(run_dir, out=tmp_path / "b", processes=1, simulators=0, **settings)
    assert list(first["tasks"]) == list(tasks)
    assert {name: entry["episodes"] for name, entry in first["tasks"].items()} == dict.fromkeys(tasks, 2)
    assert same(first) == same(second)


def same(summary):
    """Without what may differ between two evaluations that are the same; entropies to six digits."""
    kept = {key: value for key, value in summary.items() if key not in ("seconds", "protocol")}
    return json.loads(re.sub(r'("entropy": \d+\.\d{1,4})\d*', r"\1", json.dumps(kept)))


def test_episodes_do_not_depend_on_the_size_of_the_batch(unruly_suite, untrained_run, tmp_path):
    run_dir = untrained_run(tmp_path, ["unruly/steady", "unruly/slow"], window=3)
    summaries = [
        evaluate(run_dir, protocol=Protocol(6, environments=environments), out=tmp_path / str(environments), **HERE)
        for environments in (40, 3)
    ]
    assert same(summaries[0]) == same(summaries[1])
    episodes = [(tmp_path / name / "episodes.jsonl").read_text() for name in ("40", "3")]
    assert len(set(map(_without_entropy, episodes))) == 1
    other = evaluate(run_dir, protocol=Protocol(6, seed=1), out=tmp_path / "seed", **HERE)
    assert other["overall"] != summaries[0]["overall"]


@pytest.mark.usefixtures("unruly_suite")
def test_a_task_that_costs_too_much_for_one_job_is_divided_by_episodes(untrained_run, tmp_path, monkeypatch):
    """Ten episodes in rounds of four demonstrations: nothing that comes out knows of it."""
    run_dir = untrained_run(tmp_path, ["unruly/steady", "unruly/wide"])
    whole = evaluate(run_dir, protocol=Protocol(10), out=tmp_path / "whole", **HERE)
    assert len(list((tmp_path / "whole" / "jobs").iterdir())) == 2
    monkeypatch.setattr(jobs, "COST", 1.0)
    parts = evaluate(run_dir, protocol=Protocol(10), out=tmp_path / "parts", **HERE)
    assert len(list((tmp_path / "parts" / "jobs").iterdir())) == 6
    assert same(whole) == same(parts)
    lines = [_without_entropy((tmp_path / name / "episodes.jsonl").read_text()) for name in ("whole", "parts")]
    assert sorted(lines[0].splitlines()) == sorted(lines[1].splitlines())
    film = "gifs/unruly__steady.gif"
    assert (tmp_path / "whole" / film).read_bytes() == (tmp_path / "parts" / film).read_bytes()


def test_no_job_plays_long_games_to_their_end_in_one_go(run):
    """Eight games of Atari are not one job, and what they are divided into depends on nothing but the protocol."""
    pytest.importorskip("ale_py")
    meta = load_meta(run)
    games = choose(meta, [f"ale/{game}" for game in ("pong", "boxing", "tennis", "skiing")], None)
    planned = plan_jobs(games, meta, Protocol(), [])
    assert max(job.cost for job in planned) < 1.5 * jobs.COST
    played = {
        name: sorted((line.start, line.episodes) for job in planned for line in job.lines if line.task == name)
        for name in ("ale/pong", "ale/boxing")
    }
    for pieces in played.values():
        assert len(pieces) > 1
        assert [start for start, _ in pieces[1:]] == [start + episodes for start, episodes in pieces[:-1]]
        assert all(start % PROMPTS == 0 for start, _ in pieces)
        assert sum(episodes for _, episodes in pieces) == 50
    assert planned == plan_jobs(games, meta, Protocol(), [])


def test_an_interrupted_evaluation_goes_on_with_the_same_result(run, toy_suite, tmp_path, monkeypatch):
    """Ctrl-C in the middle of the second job; then the first one is not played again."""
    monkeypatch.setattr(jobs, "LINES", 1)
    settings = {"tasks": list(TASKS), "protocol": Protocol(3), **HERE}
    whole = evaluate(run, out=tmp_path / "whole", **settings)
    step, calls = toy_suite.Toy.step, []

    def interrupted(environment, action):
        calls.append(0)
        if len(calls) == whole_job + 4:
            raise KeyboardInterrupt  # as SIGINT does, wherever it arrives
        return step(environment, action)

    # The job that is played first, the longest, is the first of the lines: 3 episodes of at most 6 steps.
    episodes = [json.loads(line) for line in (tmp_path / "whole" / "episodes.jsonl").read_text().splitlines()]
    whole_job = sum(episode["steps"] for episode in episodes if episode["task"] == episodes[0]["task"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(toy_suite.Toy, "step", interrupted)
        evaluate(run, out=tmp_path / "halves", **settings)
    (first,) = (tmp_path / "halves" / "jobs").glob("*.json")
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "halves" / "summary.json").exists()
    # Nothing says that it is finished, and yet it is worth hours: what it holds is lost to no other evaluation.
    for others, complaint in (
        ({"tasks": ["toy/hopeless"]}, r"holds results of toy/match, which .* give --out DIR"),
        ({"protocol": Protocol(4)}, "with episodes 3 instead of 4, which"),
    ):
        with pytest.raises(EvaluationError, match=complaint):
            evaluate(run, out=tmp_path / "halves", **settings | others)
    halves = evaluate(run, out=tmp_path / "halves", **settings)
    assert same(halves) == same(whole)
    assert first.stat().st_mtime_ns == written
    for name in ("episodes.jsonl", "gifs/toy__match.gif"):
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_from_the_command_line(unruly_suite, untrained_run, tmp_path, monkeypatch):
    """kill -9 once a job is finished: the same command plays the rest, and says what an undisturbed one says."""
    run_dir = untrained_run(tmp_path, ["unruly/slow", "unruly/wide"])
    command = [sys.executable, "-m", "gato.launch.cli", "evaluate", str(run_dir), "--episodes=12", "--processes=1"]

    def start(name):
        return subprocess.Popen([*command, "--out", str(tmp_path / name)], stdout=subprocess.PIPE, text=True)

    whole = start("whole")
    printed, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0
    assert "unruly/slow" in printed
    broken = start("broken")
    while broken.poll() is None and not list((tmp_path / "broken").glob("jobs/*.json")):
        time.sleep(0.02)
    assert broken.poll() is None
    broken.kill()
    broken.communicate()
    assert len(list((tmp_path / "broken").glob("jobs/*.json"))) == 1
    done = start("broken")
    done.communicate(timeout=200)
    assert done.returncode == 0
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "broken")]
    assert same(summaries[0]) == same(summaries[1])


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
    with pytest.raises(EvaluationError, match=r"holds no store of unruly/steady; .* as `gato collect` writes them"):
        evaluate(run_dir, ["unruly/steady"], prompts=run_dir.parent / "data", out=tmp_path / "h", **HERE)
    none = evaluate(run_dir, ["toy/match"], Protocol(2, "none"), out=tmp_path / "n", **HERE)
    assert none["tasks"]["toy/match"]["prompt"] == "none"


def test_suites_choose_the_tasks_that_the_checkpoint_has(run):
    meta = load_meta(run)
    assert [choice.task for choice in choose(meta, None, ["toy"])] == list(TASKS)
    assert [choice.source for choice in choose(meta, ["toy/match"], ["captions"])] == ["captions/rooms", "toy/match"]
    with pytest.raises(EvaluationError, match=r"has a suite 'toi'; did you mean 'toy'\?"):
        choose(meta, None, ["toi"])
    with pytest.raises(EvaluationError, match=r"'nowhere/at-all' is neither in this checkpoint \(known: captions/"):
        choose(meta, ["nowhere/at-all"], None)


def test_a_suite_that_is_new_to_the_checkpoint_is_played_as_a_whole(run, unruly_suite, capsys):
    chosen = choose(load_meta(run), None, ["unruly"])
    assert [choice.task for choice in chosen] == sorted(unruly_suite.task_names())
    assert {choice.source for choice in chosen} == {""}
    err = capsys.readouterr().err
    assert err == (
        f"unruly/blurs, unruly/cursed, unruly/dies and {len(chosen) - 3} more: a new embodiment for this checkpoint\n"
    )


def test_another_checkpoint_is_evaluated_anew_and_no_old_film_stays(run, toy_suite, tmp_path, monkeypatch):
    """Its films cannot be drawn: that is said, and those of the checkpoint before are not shown for them."""
    settings = {"protocol": Protocol(2), "out": tmp_path / "out", **HERE}
    evaluate(run, list(TASKS), **settings)
    before = set((tmp_path / "out" / "jobs").iterdir())
    (checkpoint,) = (run / "checkpoints").iterdir()
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


def test_seeds_that_simulators_do_not_take_are_refused():
    most = Protocol(50, seed=214_648)
    last = EVALUATION_SEED + most.seed * SEEDS_PER_RUN + 50 - 1
    for task in (
        "ale/pong",
        "dm_control/pendulum-swingup",
        "metaworld/reach-v3",
        "mujoco/Hopper-v5",
        "sokoban/7x7-1box",
    ):
        environment = get_task(task).make()
        environment.reset(last)
        environment.close()
    for seed in (214_649, 429_500, -1):
        with pytest.raises(EvaluationError, match=rf"seed must lie in 0\.\.214,648, got {seed}: "):
            Protocol(50, seed=seed)


def test_the_entropy_is_that_of_the_logits(run):
    agent = worker_agent(next((run / "checkpoints").iterdir()))
    acting = ActingAgent(Agent(agent.params, agent.meta))
    acting._agent.reset("toy/match", batch=2)
    acting.act([get_task("toy/match").make().reset(seed) for seed in (1, 2)])
    logits = np.asarray(acting._agent.logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(-1).mean(-1)
    np.testing.assert_allclose(acting.entropies, expected, rtol=1e-4)
    assert (acting.entropies > 0.5 * (np.log(3) + np.log(1024)) / 2).all()  # it has learned nothing


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


def test_jobs_cover_every_line_once_and_the_longest_come_first(run, monkeypatch):
    meta = load_meta(run)
    everything = choose(meta, None, None)
    monkeypatch.setattr(jobs, "LINES", 2)
    planned = plan_jobs(everything, meta, Protocol(4, documents=5), ["toy/match"])
    played = [job for job in planned if isinstance(job, PlayJob) and not job.specialist]
    assert sorted(line.name for job in played for line in job.lines) == [
        "toy/hopeless",
        "toy/match",
        "toy/match [blind]",
    ]
    assert sorted(len(job.lines) for job in played) == [1, 2]
    assert [job.lines[0].source for job in planned if isinstance(job, PlayJob) and job.specialist] == ["toy/match"]
    assert [job.source for job in planned if isinstance(job, WriteJob)] == ["captions/rooms", "questions/rooms"]
    assert [job.cost for job in planned] == sorted((job.cost for job in planned), reverse=True)


def _without_entropy(lines: str) -> str:
    """Another batch, another order of additions: the last digits of the entropy may differ."""
    return "\n".join(json.dumps({**json.loads(line), "entropy": None}) for line in lines.splitlines())


def test_the_beginning_that_captions_share():
    text = TextTokenizer.default()
    assert common_beginning(["a red ball, a green key", "a blue box", "a grey key"], text).strip() == "a"
    assert common_beginning(["yes", "no"], text) == ""
