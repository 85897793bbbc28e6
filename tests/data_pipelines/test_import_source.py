"""Imports: resumable after a kill, idempotent, the same for any number of processes, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines import import_source as module
from gato.data_pipelines.errors import SourceError, StoreError
from gato.data_pipelines.import_arguments import report_of
from gato.data_pipelines.import_source import Imported, import_part, import_source, plan_import
from gato.data_pipelines.readers.arrays import ArraysReader
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store
from gato.tokenizers.errors import SpecError

EPISODES = 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(EPISODES):
        steps = int(rng.integers(5, 40))
        np.savez(
            folder / f"{number:03d}.npz",
            **{"observations/x": rng.normal(size=(steps, 20)), "actions": rng.uniform(-1, 1, (steps, 2))},
        )
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 20_000)


def everything(path: Path) -> list[bytes]:
    store = Store(path)
    episodes = [store.episode(k) for k in range(len(store))]
    return [e.observations["x"].tobytes() + e.actions["action"].tobytes() for e in episodes]


def run(source: Path, dest: Path, **settings):
    return import_source(SourceReference(str(source)), dest, progress=False, **settings)


def test_the_store_does_not_depend_on_the_processes(source, tmp_path):
    first = run(source, tmp_path / "a", processes=1)
    second = run(source, tmp_path / "b", processes=2)
    assert Store(tmp_path / "a").fingerprint == Store(tmp_path / "b").fingerprint
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    assert first.episodes == second.episodes == EPISODES
    assert len(list((tmp_path / "a").glob("part-*"))) > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "mine"]


def test_importing_again_does_nothing_and_other_data_are_refused(source, tmp_path):
    run(source, tmp_path / "a")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}
    assert run(source, tmp_path / "a").already_there
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")} == written
    np.savez(source / "999.npz", **{"observations/x": np.zeros((3, 20)), "actions": np.zeros((3, 2))})
    with pytest.raises(StoreError, match=r"holds another import \(other data files \(names, sizes or times\)\)"):
        run(source, tmp_path / "a")


def test_it_goes_on_with_what_is_missing(source, tmp_path, monkeypatch):
    read = ArraysReader.read

    def interrupted(self, index):
        if index == 30:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(ArraysReader, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "a")
    folder = tmp_path / ".a.import"
    kept = {path.name: (path / "data-00000.array_record").stat().st_mtime_ns for path in folder.glob("part-?????")}
    assert len(kept) > 2
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    monkeypatch.setattr(module, "PART_BYTES", 1)  # the parts of the beginning stay
    run(source, tmp_path / "a", bad="skip")
    for name, moment in kept.items():
        assert (tmp_path / "a" / name / "data-00000.array_record").stat().st_mtime_ns == moment
    assert len(Store(tmp_path / "a")) == EPISODES


def test_parts_of_other_data_and_skipped_records_are_not_kept(source, tmp_path, monkeypatch):
    good = (source / "030.npz").read_bytes()
    (source / "030.npz").write_bytes(good[:-40])
    merge = module.merge_parts
    monkeypatch.setattr(module, "merge_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "a", bad="skip")
    monkeypatch.setattr(module, "merge_parts", merge)
    with pytest.raises(SourceError, match=r"030\.npz"):  # the part that lacks it is done again
        run(source, tmp_path / "a")
    assert run(source, tmp_path / "b", bad="skip").skipped
    with pytest.raises(StoreError, match="was imported without 1 bad record;"):
        run(source, tmp_path / "b")
    (source / "030.npz").write_bytes(good)  # mended: other data than those of the parts
    assert run(source, tmp_path / "a").episodes == EPISODES


KILLED = """
import sys
import time
from gato.data_pipelines import import_source as module
from gato.data_pipelines.readers.arrays import ArraysReader
from gato.data_pipelines.readers.registry import SourceReference
module.PART_BYTES = 20_000
import_part = module.import_part

def import_some(reference, identity, folder, *rest):
    import_part(reference, identity, folder, *rest)
    if len(list(folder.glob("part-?????"))) >= int(sys.argv[3]):
        time.sleep(600)  # it is killed here or while another part is written, however busy the machine is

module.import_part = import_some
if __name__ == "__main__":
    module.import_source(SourceReference(sys.argv[1]), sys.argv[2], processes=2, progress=False)
"""


@pytest.mark.parametrize("moment", [0, 2, 5])
def test_a_killed_import_goes_on(source, tmp_path, moment):
    """SIGKILL after so many parts: nothing under the store's name, and the next call completes it."""
    (tmp_path / "run.py").write_text(KILLED)
    command = [sys.executable, tmp_path / "run.py", source, tmp_path / "a", str(moment)]
    process = subprocess.Popen(command, start_new_session=True)
    folder = tmp_path / ".a.import"
    try:
        while len(list(folder.glob("part-?????"))) < moment or not (folder / "import.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "a").exists()
    run(source, tmp_path / "a")
    run(source, tmp_path / "b")
    assert Store(tmp_path / "a").fingerprint == Store(tmp_path / "b").fingerprint
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_unknown_sources_are_named(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        run(tmp_path / "nothing", tmp_path / "a")
    with pytest.raises(SourceError, match="no format 'rdls'; did you mean 'rlds'"):
        import_source(SourceReference(str(tmp_path), format="rdls"), tmp_path / "a", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_everything_bad_is_no_store(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    with pytest.raises(StoreError, match=r"no episode is left, 2 bad records skipped; the first: .*no field 'text'"):
        run(tmp_path / "a.jsonl", tmp_path / "a", bad="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_refused_import_leaves_nothing_but_finished_parts(source, tmp_path, processes):
    good = dict(np.load(source / "001.npz"))
    np.savez(source / "001.npz", **{**good, "observations/x": good["observations/x"] * np.nan})
    with pytest.raises(SpecError, match=r"001\.npz: .*NaN"):
        run(source, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    np.savez(source / "001.npz", **good)
    np.savez(source / "030.npz", **{**good, "observations/x": good["observations/x"] * np.nan})
    with pytest.raises(SpecError, match=r"030\.npz: .*NaN"):
        run(source, tmp_path / "a", processes=processes)
    assert list((tmp_path / ".a.import").glob("part-?????"))


def test_empty_documents_are_counted(tmp_path, monkeypatch):
    """By every process, in every part, and when the store is there already."""
    monkeypatch.setattr(module, "PART_RECORDS", 7)
    rows = [{"text": "x" * 50 if number % 3 else None} for number in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for processes in (1, 2):
        done = run(tmp_path / "a.jsonl", tmp_path / str(processes), processes=processes)
        assert (done.episodes, done.empty, done.skipped) == (40, 20, [])
    again = run(tmp_path / "a.jsonl", tmp_path / "1")
    assert again.already_there
    assert again.empty == 20
    assert "left out 20 empty documents" in list(report_of(again))
    assert not list((tmp_path / "1").glob("part-*.json"))
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(StoreError, match="gives no episode; it has 3 empty documents"):
        run(tmp_path / "b.jsonl", tmp_path / "b")


def test_an_empty_folder_is_no_obstacle_and_another_is_named(source, tmp_path):
    (tmp_path / "a").mkdir()
    assert run(source, tmp_path / "a").episodes == EPISODES
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="b: exists, and is no store; choose another place"):
        run(source, tmp_path / "b")


def test_a_part_that_is_done_again_changes_nothing(source, tmp_path, monkeypatch):
    """A cluster repeats work whose answer got lost, and gives the same work to two machines."""
    reference = SourceReference(str(source))
    plan = plan_import(reference, tmp_path / "a")
    assert not isinstance(plan, Imported)
    job = reference, plan.source.identity, plan.folder, plan.bad
    first, second = plan.parts[:2]
    done: list[int] = []
    import_part(*job, first, done.append)
    written = (plan.folder / first.name / "store.json").stat().st_mtime_ns
    import_part(*job, first, done.append)
    assert sum(done) == 2 * (first.stop - first.start)
    assert (plan.folder / first.name / "store.json").stat().st_mtime_ns == written
    read = ArraysReader.read

    def overtaken(self, index):
        """While the second part is written, somebody else writes it, too."""
        if index == second.start and not (plan.folder / second.name).exists():
            monkeypatch.setattr(ArraysReader, "read", read)
            import_part(*job, second, done.append)
        return read(self, index)

    monkeypatch.setattr(ArraysReader, "read", overtaken)
    import_part(*job, second, done.append)
    assert not list(plan.folder.glob(".*partial"))
    for part in plan.waiting():
        import_part(*job, part, done.append)
    plan.finish()
    run(source, tmp_path / "b")
    assert Store(tmp_path / "a").fingerprint == Store(tmp_path / "b").fingerprint


def test_parts_where_the_first_record_tells_nothing(tmp_path, monkeypatch):
    """An empty beginning must not make the whole source one part: nothing could be done at once, or go on."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text("" if number < 5 else "x" * 4_000)
    plan = plan_import(SourceReference(str(folder)), tmp_path / "a")
    assert not isinstance(plan, Imported)
    assert len(plan.parts) == 12
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text("")
    monkeypatch.setattr(module, "PART_RECORDS", 25)
    plan = plan_import(SourceReference(str(folder)), tmp_path / "b")
    assert not isinstance(plan, Imported)
    assert [part.stop for part in plan.parts] == [25, 50, 60]
    with pytest.raises(StoreError, match="gives no episode"):
        run(folder, tmp_path / "c")


def test_what_an_interruption_at_the_very_end_leaves_is_removed(source, tmp_path, monkeypatch):
    tidy = module._tidy
    monkeypatch.setattr(module, "_tidy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "a")
    assert len(list((tmp_path / "a").glob("part-*/store.json"))) > 3
    monkeypatch.setattr(module, "_tidy", tidy)
    assert run(source, tmp_path / "a").already_there
    run(source, tmp_path / "b")
    names = [sorted(str(file.relative_to(tmp_path / name)) for file in (tmp_path / name).rglob("*")) for name in "ab"]
    assert names[0] == names[1]
    assert not list((tmp_path / "a").glob("part-*/store.json"))


def test_more_parts_than_open_files(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, limits[1]))
    try:
        run(source, tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(list((tmp_path / "a").glob("part-*"))) == EPISODES
    assert len(everything(tmp_path / "a")) == EPISODES
