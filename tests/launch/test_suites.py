"""`gato suites`: the overview, the tasks of one suite, the command for what is missing."""

from __future__ import annotations

import json
import shlex
import sys
import types

import pytest

from gato.data_pipelines.environments import registry
from gato.data_pipelines.environments.suite import Suite
from gato.launch import cli
from gato.tokenizers.errors import GatoError


@pytest.fixture
def gato(capsys: pytest.CaptureFixture):
    def run(*arguments: str) -> str:
        assert cli.main(["suites", *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_overview_counts_tasks(gato):
    suites = {entry["name"]: entry for entry in json.loads(gato("--json"))}
    assert suites["dm_control"]["tasks"] == 51
    assert suites["ale"]["tasks"] == 104
    assert all(entry["installed"] for entry in suites.values())
    lines = gato().splitlines()
    assert any(line.split()[:3] == ["metaworld", "50", "yes"] for line in lines)
    assert not any("to install" in line for line in lines)


def test_what_is_missing_comes_with_one_command(gato, monkeypatch):
    for package in ("metaworld", "ale_py"):
        monkeypatch.setitem(sys.modules, package, None)
    text = gato()
    assert any(line.split()[:3] == ["metaworld", "50", "no"] for line in text.splitlines())
    assert "to install ale, atari, metaworld, metaworld-full (in the checkout):" in text
    (command,) = (line.strip() for line in text.splitlines() if "pip install" in line)
    assert shlex.split(command) == [
        *("pip", "install", "--constraint", "constraints.txt", "--editable", ".[ale,metaworld]")
    ]
    entry = next(entry for entry in json.loads(gato("--json")) if entry["name"] == "ale")
    assert (entry["installed"], entry["missing"], entry["tasks"]) == (False, ["ale_py"], 104)
    assert "ale/pong" in gato("ale"), "its tasks are listed all the same"


def test_suites_of_other_packages_are_installed_by_the_same_command(gato, monkeypatch):
    for name, install in (("arms", "pip install arms-sim"), ("legs", "")):
        module = types.ModuleType(name)
        module.SUITE = Suite(name, "", list, dict, packages=("nobody_has_this",), install=install)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(registry.SUITES, name, f"{name}:SUITE")
    monkeypatch.setitem(sys.modules, "minigrid", None)
    text = gato()
    assert "to install arms, babyai, babyai-raw (in the checkout):" in text
    assert '  pip install --constraint constraints.txt --editable ".[babyai]" && pip install arms-sim\n' in text
    assert "legs needs nobody_has_this; its package names no command for that" in text


def test_the_tasks_of_a_suite_with_scores_and_sources(gato):
    tasks = {entry["name"]: entry for entry in json.loads(gato("dm_control", "--json"))}
    reach = tasks["dm_control/reacher-easy"]
    assert reach["observations"] == "position 2, to_target 2, velocity 2"
    assert reach["actions"] == "action 2 in [-1, 1]"
    assert (reach["metric"], reach["max_steps"]) == ("return", 1000)
    assert reach["expert"] > 900
    assert reach["sources"] == {"random": "measured", "expert": "measured"}
    assert tasks["dm_control/dog-fetch"]["expert"] is None, "nobody measured it"
    text = gato("dm_control")
    assert "TD-MPC2: expert: " in text
    alien = next(entry for entry in json.loads(gato("ale", "--json")) if entry["name"] == "ale/alien")
    assert alien["expert"] is None
    assert {entry["source"] for entry in alien["other_protocols"]} == {"DQN zoo", "JAT"}


def test_instructions_are_shown(gato):
    assert "babyai/GoToRedBall: go to" in gato("babyai")


def test_a_wrong_suite_gets_a_suggestion(capsys):
    assert cli.main(["suites", "dm_contrl"]) == GatoError.status
    assert "unknown suite 'dm_contrl'; did you mean 'dm_control'" in capsys.readouterr().err
