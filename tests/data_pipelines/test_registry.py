"""Tasks by name, suggestions for wrong names, missing packages, suites of other packages."""

import importlib
import sys
import types
from importlib import metadata

import pytest

from gato.data_pipelines.environments import registry
from gato.data_pipelines.environments.base import MissingSuiteError, Task, UnknownTaskError
from gato.data_pipelines.environments.registry import get_task, list_tasks


def test_the_suites_offer_their_tasks():
    names = list_tasks()
    assert names == sorted(set(names))
    assert sum(name.startswith("metaworld/") for name in names) == 50
    assert sum(name.startswith("dm_control/") for name in names) == 51
    assert sum(name.startswith("babyai/") for name in names) >= 95


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("metaworld/reach-v2", "did you mean 'metaworld/reach-v3'"),
        ("babyai/PickUpLoc", "'babyai/PickupLoc'"),
        ("metaword/reach-v3", "'metaworld/reach-v3'"),
        ("dm_control/reacher", "'dm_control/reacher-"),
        ("nothing", "known: atari, babyai"),
    ],
)
def test_a_wrong_name_gets_a_suggestion(name, suggestion):
    with pytest.raises(UnknownTaskError, match=suggestion) as caught:
        get_task(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("metaworld/reach-v3", "metaworld.env_dict"),
        ("dm_control/reacher-easy", "dm_control.suite"),
        ("babyai/OpenDoor", "minigrid"),
    ],
)
def test_a_missing_package_names_the_command(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    if name.startswith("babyai"):
        importlib.import_module("gato.data_pipelines.environments.babyai")._levels.cache_clear()
    with pytest.raises(MissingSuiteError, match=r'pip install -e "\.\[suites\]"'):
        get_task(name)
    assert not any(other.startswith(name.split("/")[0] + "/") for other in list_tasks())


def test_an_entry_point_adds_a_suite_but_cannot_replace_one(monkeypatch):
    task = Task("robots/stack", make=dict, expert=lambda environment, rng: dict, metric="success", max_steps=3)
    suite = types.SimpleNamespace(task_names=lambda: ["robots/stack"], make_task=lambda name: task)
    monkeypatch.setitem(sys.modules, "somebodys_suite", suite)
    points = [metadata.EntryPoint(name, "somebodys_suite", registry.ENTRY_POINTS) for name in ("robots", "metaworld")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "gato.tasks" else [])
    assert get_task("robots/stack") is task
    assert "robots/stack" in list_tasks()
    assert get_task("metaworld/reach-v3").name == "metaworld/reach-v3"
    with pytest.raises(UnknownTaskError, match="did you mean 'robots/stack'"):
        get_task("robots/stak")
