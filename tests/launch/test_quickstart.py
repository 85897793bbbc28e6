"""The quickstart: its stages, its budget, and (slow) the whole way on a miniature mixture."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

from gato.data_pipelines.collect import CollectPlan
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.starter import STARTER
from gato.data_pipelines.store_writer import StoreWriter
from gato.launch import cli, quickstart
from gato.launch.config import apply_override, train_config
from gato.launch.configs import quickstart as experiment
from gato.launch.configs import quickstart_hours
from gato.launch.quickstart import Quickstart, Stopped, collected_texts
from gato.launch.scores import score_table
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.training.config import TrainConfig
from gato.training.trainer import TrainResult


def stub(
    run: Quickstart, log: list[str], failing: str = "", error: type[BaseException] = KeyboardInterrupt
) -> Quickstart:
    """Replaces every stage by a line in `log`; the stage `failing` raises."""

    def stage(name: str) -> None:
        log.append(name)
        if name == failing:
            raise error

    run.stages = {name: (lambda name=name: stage(name)) for name in run.stages}
    return run


def test_stages_run_once_and_go_on_after_an_interruption(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        stub(Quickstart(tmp_path, 1200, 0), log, failing="train").run()
    assert log == ["collect", "tokenizer", "train"]
    log.clear()
    stub(Quickstart(tmp_path, 1200, 0), log).run()
    assert log == ["train", "evaluate", "report"]
    log.clear()
    stub(Quickstart(tmp_path, 1200, 0), log).run()
    assert log == []


def test_a_signal_in_training_gives_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(self: Quickstart) -> None:
        raise Stopped(143)

    monkeypatch.setattr(Quickstart, "run", stopped)
    assert quickstart.run(argparse.Namespace(out=tmp_path, budget=1200.0, seed=0)) == 143
    assert "run the same command again" in capsys.readouterr().err


def test_a_refused_budget_leaves_nothing_and_the_suggested_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began: list[str] = []

    def collect(*arguments: object, **options: object) -> None:
        began.append("collect")
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "collect", collect)
    out = tmp_path / "run"
    command = ["quickstart", "--out", str(out)]
    assert cli.main([*command, "--budget=30s"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not out.exists()
    assert began == []
    enough = error.strip().partition("give at least ")[2]
    assert enough.startswith("--budget=")
    assert cli.main([*command, enough]) == 130
    assert began == ["collect"]


@pytest.mark.parametrize(
    ("budget", "seconds", "steps"),
    [
        (1200.0, 0.01, 3500),  # fast enough: the experiment's own number
        (1200.0, 0.51, 1700),  # 985 s are left for training, of which a tenth are not steps
        (1200.0, 60.0, 200),  # never fewer
        (7200.0, 0.51, 12300),  # a larger budget is used
    ],
)
def test_the_budget_becomes_steps_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, seconds: float, steps: int
) -> None:
    trained: list[TrainConfig] = []
    measured: list[float] = []

    def train(config: TrainConfig, out: Path) -> TrainResult:
        trained.append(config)
        return TrainResult(out, config.steps, {})

    def seconds_per_step(config: TrainConfig, timing: float) -> float:
        measured.append(timing)
        return seconds

    monkeypatch.setattr("gato.training.trainer.train", train)
    monkeypatch.setattr("gato.launch.calibrate.seconds_per_step", seconds_per_step)
    monkeypatch.setattr(quickstart, "EXPECTED", {"tokenizer": 10.0, "evaluate": 100.0, "report": 5.0})
    monkeypatch.setattr(quickstart, "DEFAULT_BUDGET", 1200.0)
    monkeypatch.setattr(quickstart, "OVERHEAD", 0.1)
    (tmp_path / "tokenizer.model").write_bytes(TextTokenizer.default().model_bytes)
    for _ in range(2):
        run = Quickstart(tmp_path, budget, seed=3)
        run.journal.seconds["collect"] = 100.0
        run.train()
    assert [config.steps for config in trained] == [steps, steps]
    # An interrupted training goes on with the same schedule; a bad moment may not decide the steps of two hours.
    assert measured == [72.0 if budget == 7200 else 15.0]
    config = trained[0]
    assert (config.seed, config.model.layers, config.length) == (3, 3, 128)
    assert config.text_model == str(tmp_path / "tokenizer.model")
    assert [source.path for source in config.sources] == [str(tmp_path / "data" / plan.name) for plan in STARTER]


def test_the_training_gets_what_the_others_leave(tmp_path: Path) -> None:
    """A slow machine keeps time for its evaluation; one took 3.3 and 2.0 times the expected time for the two."""
    run = Quickstart(tmp_path, 1200.0, seed=0)
    expected = run.collecting_seconds()
    run.journal.seconds["collect"] = 0.8 * expected
    assert run.training_seconds() == pytest.approx(1200 - 0.8 * expected - sum(quickstart.EXPECTED.values()))
    run.journal.seconds["collect"] = 3 * expected
    rest = sum(quickstart.EXPECTED.values()) + quickstart.EXPECTED["evaluate"]
    assert run.training_seconds() == pytest.approx(1200 - 3 * expected - rest)


@pytest.mark.parametrize(("budget", "times", "pickup"), [(1200.0, 1, 0.37), (7200.0, 4, 0.2)])
def test_hours_collect_more_and_share_the_tokens_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, times: int, pickup: float
) -> None:
    collected: list[CollectPlan] = []
    monkeypatch.setattr(quickstart, "collect", lambda plans, *arguments, **options: collected.extend(plans))
    (tmp_path / "tokenizer.model").write_bytes(TextTokenizer.default().model_bytes)
    run = Quickstart(tmp_path, budget, seed=0)
    run.collect()
    assert [plan.name for plan in collected] == [plan.name for plan in STARTER]
    grown = {plan.name for plan, before in zip(collected, STARTER, strict=True) if plan.episodes != before.episodes}
    assert grown == (set() if times == 1 else {p.name for p in STARTER if p.name.startswith(("metaworld", "dm_"))})
    assert all(plan.episodes in (before.episodes, times * before.episodes) for plan, before in zip(collected, STARTER))
    (share,) = (source.weight for source in run.training_config().sources if source.path.endswith("/PickupLoc"))
    assert share == pytest.approx(pickup)


def test_remaining_time_shrinks_to_nothing(tmp_path: Path) -> None:
    run = stub(Quickstart(tmp_path, 1200, 0), [])
    before = run.left()
    assert before == pytest.approx(1200, rel=0.05)
    for name in list(run.stages):
        with run.journal.stage(name):
            pass
        assert run.left() <= before
        before = run.left()
    assert before == 0


def test_collected_texts_are_each_wording_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "STARTER", (CollectPlan("a/b", 2), CollectPlan("a/c", 1)))
    spec = EpisodeSpec(
        {"mission": LeafSpec("text"), "x": LeafSpec("continuous")}, {"action": LeafSpec("discrete", values=2)}
    )
    for name, missions in (("a/b", ["go", "stop"]), ("a/c", ["go"])):
        with StoreWriter(tmp_path / name, name, spec, {}) as writer:
            for mission in missions:
                observations = {"mission": [mission] * 3, "x": np.zeros(3, np.float32)}
                actions = {"action": np.zeros(3, np.int64)}
                writer.write(Episode(observations, actions, np.zeros(3, np.float32), metadata={"episode_id": mission}))
    assert list(collected_texts(tmp_path)) == ["go", "stop", "go"]


@pytest.mark.parametrize("module", [experiment, quickstart_hours])
def test_experiment_covers_the_starter_mixture(module: ModuleType) -> None:
    config = module.get_config("run")
    assert sorted(source["path"] for source in config.sources) == sorted(f"run/data/{plan.name}" for plan in STARTER)
    assert sum(source["weight"] for source in config.sources) == pytest.approx(1.0)
    for source in config.sources:
        assert source["weight"] > 0
        assert ("window_timesteps" in source) != (source["path"].split("/")[2] in experiment.DOCUMENTS)


def test_score_table_shows_every_task_and_undefined_as_a_dash() -> None:
    tasks = {
        "a/b": {
            "score": 0.5,
            "low": 0.4,
            "high": 0.6,
            "random": 0.1,
            "expert": 1.0,
            "normalised": 44.4,
            "specialist": 0.9,
        },
        "a/c": {"score": 0.5, "low": 0.4, "high": 0.6, "random": 1.0, "expert": 1.0, "normalised": None},
    }
    stream = io.StringIO()
    Console(file=stream, width=120).print(score_table({"tasks": tasks, "suites": {"a": 44.4}, "overall": 44.4}))
    first, second = (line for line in stream.getvalue().splitlines() if line.startswith("a/"))
    assert "44.4" in first
    assert "0.90" in first
    assert "–" in second


MINIATURE = (
    CollectPlan("babyai/OpenDoor", 12),
    CollectPlan("sokoban/7x7-1box", 20),
    CollectPlan("captions/rooms", 40),
    CollectPlan("text/stdlib", 400),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_way_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real simulators and a few steps of training: all files are there, and a second call does nothing again."""
    monkeypatch.setattr(quickstart, "STARTER", MINIATURE)
    monkeypatch.setattr(experiment, "STARTER", MINIATURE)
    monkeypatch.setattr(quickstart, "EPISODES", 1)
    # Specialists and many captions have tests of their own and would take most of the time.
    monkeypatch.setattr(quickstart, "DOCUMENTS", 8)
    monkeypatch.setattr(quickstart, "SPECIALISTS", False)
    settings = ["seed=0", "optimizer.warmup_steps=2", "validation_every=4", "checkpoint_every=4", "batch_size=8"]

    def small(self: Quickstart) -> TrainConfig:
        config = experiment.get_config(str(self.out.absolute()))
        for override in settings:
            apply_override(config, override)
        return train_config(config)

    def files() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in arguments.out.rglob("*")
            if path.is_file() and path.suffix != ".lock"
        }

    monkeypatch.setattr(Quickstart, "training_config", small)
    arguments = argparse.Namespace(out=tmp_path / "run", budget=1200.0, seed=0)
    journal = Quickstart(arguments.out, 1200.0, 0).journal
    journal.notes["steps"] = 8  # as if a step had been measured before an interruption
    journal.write()
    assert quickstart.run(arguments) == 0
    out = capsys.readouterr().out
    assert "babyai/OpenDoor" in out
    for name in ("report.html", "evaluation/summary.json", "evaluation/captions.json", "metrics.jsonl", "timings.json"):
        assert (arguments.out / name).is_file(), name
    page = (arguments.out / "report.html").read_text()
    for section in ("Scores", "The agent at work", "What it sees", "Learning curves", "What the network reads", "Time"):
        assert f"<h2>{section}</h2>" in page
    written = files()
    assert quickstart.run(arguments) == 0
    assert files() == written
