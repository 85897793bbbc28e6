"""Collecting: the same bytes in any number of processes, resuming, full disks, interruptions."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from gato.data_pipelines import collect as collecting
from gato.data_pipelines import store_writer
from gato.data_pipelines.collect import CollectError, CollectPlan, collect
from gato.data_pipelines.environments.base import UnknownTaskError
from gato.data_pipelines.store import Store

PLANS = (
    CollectPlan("babyai/OpenDoor", episodes=7),
    CollectPlan("metaworld/handle-press-v3", episodes=12),
    CollectPlan("dm_control/point_mass-easy", episodes=3),
)


def _fingerprints(folders):
    return {name: Store(folder).fingerprint for name, folder in folders.items()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return collect(PLANS, tmp_path_factory.mktemp("collected"), seed=1, processes=1, progress=False)


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()
    }


def test_stores_hold_what_was_asked_for(collected):
    for plan in PLANS:
        opened = Store(collected[plan.name])
        assert len(opened) == plan.episodes
        assert opened.name == plan.name
        about = opened.metadata
        assert (about["task"], about["agent"], about["seed"]) == (plan.name, "expert", 1)
        ids = [opened.episode(index).metadata["episode_id"] for index in range(len(opened))]
        assert ids == [f"{index:06d}" for index in range(plan.episodes)]
    assert min(Store(collected["dm_control/point_mass-easy"]).returns) > 700


def test_the_stores_do_not_depend_on_processes_or_order(collected, tmp_path):
    again = collect(PLANS[::-1], tmp_path, seed=1, processes=2, progress=False)
    for name, folder in collected.items():
        assert _files(folder) == _files(again[name]), name


def test_another_seed_gives_other_episodes(collected, tmp_path):
    other = collect(PLANS[:1], tmp_path, seed=2, processes=1, progress=False)
    assert _fingerprints(other).items().isdisjoint(_fingerprints(collected).items())


def test_finished_stores_are_kept_and_others_are_refused(collected, monkeypatch):
    out = collected["babyai/OpenDoor"].parents[1]
    monkeypatch.setattr(collecting, "_run_job", lambda job: pytest.fail("collected again"))
    assert collect(PLANS, out, seed=1, progress=False) == collected
    with pytest.raises(CollectError, match=r"holds another collection \(seed 1 instead of 5\); delete the folder"):
        collect(PLANS, out, seed=5, progress=False)


def test_a_full_disk_names_folder_and_space_and_leaves_nothing(collected, tmp_path, monkeypatch):
    class FullDisk(store_writer.ArrayRecordWriter):
        """What a small file system showed: writes go to a buffer, closing fails, and fails again."""

        def __init__(self, path, options):
            self.path = path
            super().__init__(path, options)

        def close(self):
            super().close()
            if "point_mass" in self.path:
                raise RuntimeError(f"write() failed: No space left on device; writing {self.path}")

    with monkeypatch.context() as patch:
        patch.setattr(store_writer, "ArrayRecordWriter", FullDisk)
        with pytest.raises(
            CollectError, match=r"point_mass-easy: the disk is full: \d+ MB free, .* needs up to \d+ MB"
        ):
            collect(PLANS, tmp_path, seed=1, processes=1, progress=False)
    left = sorted(path.parent.name for path in tmp_path.rglob("*") if path.is_file() and path.name == "store.json")
    assert left == ["OpenDoor", "handle-press-v3"]
    assert not list(tmp_path.rglob("*.partial"))
    assert _fingerprints(collect(PLANS, tmp_path, seed=1, processes=1, progress=False)) == _fingerprints(collected)


def test_long_episodes_are_cut_on_request(tmp_path):
    plan = CollectPlan("dm_control/point_mass-easy", episodes=3, max_steps=40)
    folder = collect([plan], tmp_path, processes=1, progress=False)[plan.name]
    assert Store(folder).lengths.tolist() == [40, 40, 40]
    assert Store(folder).episode(0).truncated
    uncut = CollectPlan(plan.name, episodes=3)
    with pytest.raises(CollectError, match="requested_max_steps 40 instead of None"):
        collect([uncut], tmp_path, processes=1, progress=False)


def test_an_interruption_costs_only_the_unfinished_source(collected, tmp_path, monkeypatch):
    real = collecting.demonstration

    def interrupted(task, environment, index, *rest):
        if task.name.startswith("metaworld") and index == 11:
            raise KeyboardInterrupt
        return real(task, environment, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "demonstration", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(PLANS, tmp_path, seed=1, processes=1, progress=False)
    assert [path.parent.name for path in tmp_path.rglob("store.json")] == ["OpenDoor"]
    assert not list(tmp_path.rglob("*.partial"))
    assert _fingerprints(collect(PLANS, tmp_path, seed=1, processes=1, progress=False)) == _fingerprints(collected)


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_quickly(tmp_path):
    code = (
        "from gato.data_pipelines.collect import CollectPlan, collect\n"
        "if __name__ == '__main__':\n"
        "    plans = [CollectPlan('babyai/OpenDoor', 5), CollectPlan('dm_control/ball_in_cup-catch', 50)]\n"
        f"    collect(plans, {str(tmp_path)!r})\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, script], start_new_session=True, stdout=subprocess.DEVNULL)
    while not (tmp_path / "babyai/OpenDoor/store.json").exists():
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=120)
    with pytest.raises(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([CollectPlan("babyai/OpenDoor", 0)], "'babyai/OpenDoor': episodes must be at least 1, got 0"),
        ([CollectPlan("babyai/OpenDoor", 2), CollectPlan("babyai/OpenDoor", 3)], "is listed twice"),
    ],
)
def test_impossible_plans_are_refused(plans, message, tmp_path):
    with pytest.raises(CollectError, match=message):
        collect(plans, tmp_path)


def test_evaluation_seeds_are_refused(tmp_path):
    with pytest.raises(CollectError, match=r"seed must lie in 0\.\.9999, got 1000000"):
        collect(PLANS, tmp_path, seed=1_000_000)


def test_a_wrong_name_is_refused_before_anything_is_collected(tmp_path):
    with pytest.raises(UnknownTaskError, match="did you mean 'babyai/OpenDoor'"):
        collect([*PLANS, CollectPlan("babyai/OpenDor", 3)], tmp_path)
    assert not list(tmp_path.iterdir())
