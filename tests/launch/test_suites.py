"""`gato suites`: the overview, the tasks of one suite, the command for what is missing."""

from __future__ import annotations

import json
import sys

import pytest

from gato.launch import cli


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
    assert "to install metaworld, metaworld-full:\n  in the checkout: pip install --constraint constraints.txt" in text
    assert text.count('".[ale]"') == 1
    entry = next(entry for entry in json.loads(gato("--json")) if entry["name"] == "ale")
    assert (entry["installed"], entry["missing"], entry["tasks"]) == (False, ["ale_py"], 104)
    assert "ale/pong" in gato("ale"), "its tasks are listed all the same"


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
    assert cli.main(["suites", "dm_contrl"]) == cli.USER_MISTAKE
    assert "unknown suite 'dm_contrl'; did you mean 'dm_control'" in capsys.readouterr().err
