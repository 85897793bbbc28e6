"""The jobs of an evaluation: what it is divided into, and that neither that nor an interruption changes a result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.environments.base import EVALUATION_SEED
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.sources.captions import CAPTION_SPEC, QUESTION_SPEC
from gato.evaluation import jobs
from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.evaluate import choose, evaluate
from gato.evaluation.jobs import ActingAgent, PlayJob, Protocol, WriteJob, common_beginning, plan_jobs, worker_agent
from gato.evaluation.rollouts import PROMPTS, SEEDS_PER_RUN
from gato.inference.agent import Agent
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint import load_meta
from gato.training.checkpoint_meta import SourceMeta

HERE = {"processes": 1, "simulators": 0, "progress": False}


def test_jobs_cover_every_line_once_and_the_longest_come_first(toy_run, monkeypatch):
    meta = load_meta(toy_run)
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


def test_no_job_plays_long_games_to_their_end_in_one_go(toy_run):
    """Eight games of Atari are not one job, and what they are divided into depends on nothing but the protocol."""
    pytest.importorskip("ale_py")
    meta = load_meta(toy_run)
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


def without_entropies(folder: Path) -> list[str]:
    """The lines about episodes. Another batch adds in another order: the last digits of the entropy may differ."""
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    return [json.dumps({**json.loads(line), "entropy": None}) for line in lines]


def test_episodes_do_not_depend_on_the_size_of_the_batch(unruly_suite, untrained_run, tmp_path):
    run_dir = untrained_run(tmp_path, ["unruly/steady", "unruly/slow"], window=3)
    summaries = [
        evaluate(run_dir, protocol=Protocol(6, environments=environments), out=tmp_path / str(environments), **HERE)
        for environments in (40, 3)
    ]
    assert same(summaries[0]) == same(summaries[1])
    assert without_entropies(tmp_path / "40") == without_entropies(tmp_path / "3")
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
    assert sorted(without_entropies(tmp_path / "whole")) == sorted(without_entropies(tmp_path / "parts"))
    film = "gifs/unruly__steady.gif"
    assert (tmp_path / "whole" / film).read_bytes() == (tmp_path / "parts" / film).read_bytes()


def test_an_interrupted_evaluation_goes_on_with_the_same_result(toy_run, toy_suite, tmp_path, monkeypatch):
    """Ctrl-C in the middle of the second job; then the first one is not played again."""
    monkeypatch.setattr(jobs, "LINES", 1)
    settings = {"tasks": toy_suite.task_names(), "protocol": Protocol(3), **HERE}
    whole = evaluate(toy_run, out=tmp_path / "whole", **settings)
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
        evaluate(toy_run, out=tmp_path / "halves", **settings)
    (first,) = (tmp_path / "halves" / "jobs").glob("*.json")
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "halves" / "summary.json").exists()
    # Nothing says that it is finished, and yet it is worth hours: what it holds is lost to no other evaluation.
    for others, complaint in (
        ({"tasks": ["toy/hopeless"]}, r"holds results of toy/match, which .* give --out DIR"),
        ({"protocol": Protocol(4)}, "with episodes 3 instead of 4, which"),
    ):
        with pytest.raises(EvaluationError, match=complaint):
            evaluate(toy_run, out=tmp_path / "halves", **settings | others)
    halves = evaluate(toy_run, out=tmp_path / "halves", **settings)
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


SCRIPT = """
from gato.evaluation.evaluate import evaluate
evaluate({run!r}, processes=2, progress=False)
"""


def test_a_script_whose_workers_would_evaluate_again_is_told_so_at_once(save_untrained, tmp_path):
    documents = {"captions/rooms": SourceMeta(CAPTION_SPEC), "questions/rooms": SourceMeta(QUESTION_SPEC)}
    run = save_untrained(tmp_path / "run", documents)
    (tmp_path / "mine.py").write_text(SCRIPT.format(run=str(run)))
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'put the call of evaluate() under `if __name__ == "__main__":`' in done.stderr
    assert "another evaluation is under way" not in done.stderr


def test_the_entropy_is_that_of_the_logits(toy_run):
    agent = worker_agent(next((toy_run / "checkpoints").iterdir()))
    acting = ActingAgent(Agent(agent.params, agent.meta))
    acting._agent.reset("toy/match", batch=2)
    acting.act([get_task("toy/match").make().reset(seed) for seed in (1, 2)])
    logits = np.asarray(acting._agent.logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -(p * np.log(np.maximum(p, 1e-300))).sum(-1).mean(-1)
    np.testing.assert_allclose(acting.entropies, expected, rtol=1e-4)
    assert (acting.entropies > 0.5 * (np.log(3) + np.log(1024)) / 2).all()  # it has learned nothing


def test_the_beginning_that_captions_share():
    text = TextTokenizer.default()
    assert common_beginning(["a red ball, a green key", "a blue box", "a grey key"], text).strip() == "a"
    assert common_beginning(["yes", "no"], text) == ""


def test_episodes_that_the_next_seed_would_play_again_are_refused():
    Protocol(SEEDS_PER_RUN)
    with pytest.raises(EvaluationError, match="episodes must be at most 10,000 of a task, got 10,001"):
        Protocol(SEEDS_PER_RUN + 1)


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
