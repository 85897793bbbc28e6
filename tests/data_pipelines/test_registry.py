"""Tasks by name, suggestions for wrong names, missing packages, suites of other packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gato.data_pipelines.environments import registry
from gato.data_pipelines.environments.base import MissingSuiteError, SuiteError, UnknownTaskError
from gato.data_pipelines.environments.registry import get_suite, get_task, list_tasks, suite_tasks
from gato.data_pipelines.rollout import demonstration
from gato.data_pipelines.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "suites.md"
COUNTS = {
    "ale": 104,
    "babyai": 96,
    "dm_control": 51,
    "dm_control-random-large": 51,
    "metaworld": 50,
    "mujoco": 11,
    "robotics": 113,
}


def test_the_suites_offer_their_tasks():
    names = list_tasks()
    assert names == sorted(set(names))
    for suite, count in COUNTS.items():
        assert sum(name.startswith(f"{suite}/") for name in names) == count


def test_names_come_without_a_simulator():
    code = (
        "import sys\n"
        "from gato.data_pipelines.environments.registry import list_tasks\n"
        "assert len(list_tasks()) > 500\n"
        "loaded = {'ale_py', 'dm_control', 'gymnasium', 'metaworld', 'minigrid', 'mujoco', 'jax'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("metaworld/reach-v2", "did you mean 'metaworld/reach-v3'"),
        ("babyai/PickUpLoc", "'babyai/PickupLoc'"),
        ("metaword/reach-v3", "'metaworld/reach-v3'"),
        ("dm_control/reacher", "'dm_control/reacher-"),
        ("ale/space-invaders", "'ale/space_invaders'"),
        ("mujoco/HalfCheetah-v4", "'mujoco/HalfCheetah-v5'"),
        ("dm_control-random-small/walker", "'dm_control-random-small/walker-"),
        ("nothing", "known: ale, atari, babyai"),
    ],
)
def test_a_wrong_name_gets_a_suggestion(name, suggestion):
    with pytest.raises(UnknownTaskError, match=suggestion) as caught:
        get_task(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("metaworld/reach-v3", "metaworld", "metaworld"),
        ("dm_control-pixels/reacher-easy", "dm_control", "dm_control"),
        ("babyai/OpenDoor", "minigrid", "babyai"),
        ("ale/pong", "ale_py", "ale"),
        ("box2d/LunarLander-v3", "Box2D", "gymnasium"),
        ("robotics/FetchReach-v4", "gymnasium_robotics", "robotics"),
    ],
)
def test_a_missing_package_names_the_command(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingSuiteError, match=rf"{package}.* not installed.*--editable \"\.\[{extra}\]\"") as caught:
        get_task(name)
    assert "\n" not in str(caught.value)
    suite = name.partition("/")[0]
    assert not any(other.startswith(f"{suite}/") for other in list_tasks())
    assert name in suite_tasks(suite), "the catalogue knows what is not installed"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a module and the metadata of its package where Python looks first."""

    def put(package: str, code: str, entry_points: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{entry_points}\n")

    monkeypatch.syspath_prepend(tmp_path)
    return put


def page_block(name: str) -> str:
    """The block of docs/suites.md that begins with the comment ``name``."""
    (block,) = re.findall(rf"^```\w+\n# {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return block


def test_another_package_adds_a_suite_and_it_is_played(install, monkeypatch):
    monkeypatch.delitem(sys.modules, "my_robots", raising=False)
    install("my_robots", page_block("my_robots.py"), "my-robots = my_robots:SUITE")
    assert {"my-robots/touch-left", "my-robots/touch-right"} <= set(list_tasks())
    task = get_task("my-robots/touch-left")
    episode = demonstration(task, task.make(), index=0, seed=0)
    assert episode.metadata["success"]
    assert episode.observations["instruction"][0] == "touch the left mark"
    with pytest.raises(UnknownTaskError, match="did you mean 'my-robots/touch-left'"):
        get_task("my-robots/touch-lift")
    sys.modules.pop("my_robots")


def test_a_package_cannot_replace_a_suite_of_ours(install):
    install("impostor", "SUITE = None", "metaworld = impostor:SUITE")
    assert get_task("metaworld/reach-v3").max_steps == 200


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import nonsense_that_nobody_has", r"of broken_suite.*cannot be loaded: ModuleNotFoundError"),
        ("SUITE = 3", "is no Suite but a int"),
        (
            "from gato.data_pipelines.environments.suite import Suite\nSUITE = Suite('other', '', list, dict)",
            "calls itself 'other'",
        ),
    ],
)
def test_a_broken_suite_is_named_and_takes_no_other_along(install, monkeypatch, code, complaint):
    monkeypatch.delitem(sys.modules, "broken_suite", raising=False)
    install("broken_suite", code, "broken = broken_suite:SUITE")
    assert "metaworld/reach-v3" in list_tasks()
    with pytest.raises(SuiteError, match=complaint) as caught:
        get_suite("broken")
    assert "\n" not in str(caught.value)
    sys.modules.pop("broken_suite", None)


def test_a_suite_that_cannot_name_its_tasks_is_left_out(install):
    install("forgetful", "def task_names():\n    raise OSError('no disk')\nmake_task = None", "forgetful = forgetful")
    assert "metaworld/reach-v3" in list_tasks()
    with pytest.raises(SuiteError, match="'forgetful' cannot name its tasks: OSError: no disk"):
        suite_tasks("forgetful")


def test_an_installation_older_than_the_code_says_so(monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    with pytest.raises(SuiteError, match=r"older than this code.*pip install"):
        list_tasks()


def test_the_package_of_the_page_is_installed_and_collected(tmp_path: Path):
    source, target = tmp_path / "my_robots", tmp_path / "installed"
    source.mkdir()
    for name in ("my_robots.py", "pyproject.toml"):
        (source / name).write_text(page_block(name))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    gato = [sys.executable, "-m", "gato.launch.cli"]

    def run(*arguments: str) -> str:
        command = [*gato, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (left, right) = json.loads(run("suites", "my-robots", "--json"))
    assert left["name"] == "my-robots/touch-left"
    assert left["observations"] == "instruction text, place 1"
    assert right["instruction"] == "touch the right mark"
    run("collect", "my-robots/touch-left", "--episodes", "3", "--processes", "1", "--out", str(tmp_path / "data"))
    assert len(Store(tmp_path / "data" / "my-robots" / "touch-left")) == 3
