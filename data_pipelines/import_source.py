"""Imports a source of another format into a training store: in parts, by several processes, resumable, idempotent.

A source is cut into parts of about 64 MB, a function of the data alone. Each process writes whole parts, each a small
store of its own; the store is their concatenation. A part is there or it is not, so an interrupted import goes on with
the parts that are missing, and the result does not depend on the number of processes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

from gato.data_pipelines import store_format
from gato.data_pipelines.errors import SourceError, StoreError
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.readers.registry import OpenSource, SourceReference, open_source
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter, merge_parts
from gato.data_pipelines.worker_process import start_worker
from gato.tokenizers.errors import GatoError

PART_BYTES = 64 << 20
Bad = Literal["fail", "skip"]
_REPORT = 32  # records between two signs of life of a worker


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
      store: the folder. episodes, timesteps: in it.
      skipped: (record, why) of what was left out because it was bad.
      already_there: whether the folder held this very import before.
    """

    store: Path
    episodes: int
    timesteps: int
    skipped: list[tuple[int, str]]
    already_there: bool


def import_source(
    reference: SourceReference,
    dest: str | os.PathLike[str],
    *,
    bad: Bad = "fail",
    processes: int = 1,
    progress: bool = True,
) -> Imported:
    """Imports a source into the store ``dest``.

    Args:
      bad: what to do with a record that is damaged or does not match the spec: stop, or leave it out and list it.
      processes: that read and write; the store does not depend on it.
      progress: whether to show it on stderr.

    Raises:
      SourceError: the source cannot be read; the message names the file, the record and the leaf. What was imported is
        kept: after the cause is mended, the same call goes on.
      StoreError: ``dest`` holds something else, the disk is full, or nothing is left to import.
    """
    plan = plan_import(reference, dest, bad)
    if isinstance(plan, Imported):
        return plan
    waiting, name = plan.waiting(), plan.source.name
    total = sum(part.stop - part.start for part in plan.parts)
    with show_progress(total, "importing", progress) as advance:
        advance(total - sum(part.stop - part.start for part in waiting), name)
        _run(waiting, plan, min(processes, len(waiting)), lambda count: advance(count, name))
    return plan.finish()


@dataclasses.dataclass(frozen=True)
class Part:
    """Records ``start..stop-1`` of a source."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"


@dataclasses.dataclass(frozen=True)
class ImportPlan:
    """An import under way: its parts can be written by anybody, in any order; the last step makes them one store.

    Attributes:
      reference, source: what is imported. dest: the store to be. folder: where the parts gather.
      bad: "fail" or "skip". identity: of the data and the options.
    """

    reference: SourceReference
    source: OpenSource
    dest: Path
    folder: Path
    parts: Sequence[Part]
    bad: Bad
    identity: str

    def waiting(self) -> list[Part]:
        """The parts that are not there yet, or that lack bad records which may not be left out now."""
        return [part for part in self.parts if not self._done(part)]

    def _done(self, part: Part) -> bool:
        if not (self.folder / part.name).exists():
            return False
        if self.bad == "fail" and _skipped(self.folder, part):
            shutil.rmtree(self.folder / part.name)
            return False
        return True

    def finish(self) -> Imported:
        """Makes the finished parts one store, atomically."""
        records = len(self.source.reader)
        skipped = [entry for part in self.parts for entry in _skipped(self.folder, part)]
        about = {"identity": self.identity, "format": self.source.format, "records": records, "skipped": len(skipped)}
        if len(skipped) == records:
            raise StoreError(f"{self.dest}: every record was skipped as bad; the first: {skipped[0][1]}")
        parts = [self.folder / part.name for part in self.parts]
        merge_parts(parts, self.folder, {**self.source.metadata, "import": about})
        (self.folder / "skipped.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in skipped))
        os.rename(self.folder, self.dest)
        _tidy(self.dest, self.parts)
        return _imported(self.dest, skipped, already_there=False)


def plan_import(reference: SourceReference, dest: str | os.PathLike[str], bad: Bad = "fail") -> ImportPlan | Imported:
    """Opens the source and cuts it into parts; `Imported` if ``dest`` holds this very import already.

    Raises:
      SourceError, StoreError: as `import_source`.
    """
    dest = Path(dest)
    source = open_source(reference)
    identity = f"{source.identity}-{store_format.VERSION}"
    if dest.exists():
        return _existing(dest, identity, bad)
    folder = dest.with_name(f".{dest.name}.import")
    return ImportPlan(reference, source, dest, folder, _prepare(folder, source, identity, bad), bad, identity)


def _existing(dest: Path, identity: str, bad: Bad) -> Imported:
    store = Store(dest)
    found = store.metadata.get("import", {}).get("identity")
    if found != identity:
        what = "another import (other data, format or options)" if found else "a store that was not imported"
        raise StoreError(f"{dest}: holds {what}; delete it or choose another folder")
    file = dest / "skipped.jsonl"
    skipped = [(int(number), why) for number, why in map(json.loads, file.read_text().splitlines())]
    if skipped and bad == "fail":
        raise StoreError(
            f"{dest}: was imported without {len(skipped)} bad records; delete it, or ask for --bad skip again"
        )
    return _imported(dest, skipped, already_there=True)


def _imported(dest: Path, skipped: list[tuple[int, str]], already_there: bool) -> Imported:
    store = Store(dest)
    return Imported(dest, len(store), int(store.lengths.sum(dtype="int64")), skipped, already_there)


def _prepare(folder: Path, source: OpenSource, identity: str, bad: Bad) -> list[Part]:
    """The parts of this import; the folder says for which data they are. Parts of other data are thrown away."""
    plan = folder / "import.json"
    if plan.exists():
        with contextlib.suppress(ValueError, KeyError):
            known = json.loads(plan.read_text())
            if known["identity"] == identity:
                return _parts(len(source.reader), known["records_per_part"])
    shutil.rmtree(folder, ignore_errors=True)
    per_part = max(1, PART_BYTES // max(_first_size(source, bad), 1))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = plan.with_suffix(".partial")
        partial.write_text(json.dumps({"identity": identity, "records_per_part": per_part}))
        os.replace(partial, plan)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return _parts(len(source.reader), per_part)


def _parts(records: int, per_part: int) -> list[Part]:
    starts = range(0, records, per_part)
    return [Part(number, start, min(start + per_part, records)) for number, start in enumerate(starts)]


def _first_size(source: OpenSource, bad: Bad) -> int:
    """Bytes of the first record that can be read: all are taken to be as large."""
    for index in range(len(source.reader)):
        try:
            episodes = list(source.read(index))
        except GatoError:
            if bad == "fail":
                raise
            continue
        values = [leaf for e in episodes for leaf in (*e.observations.values(), *e.actions.values())]
        return sum(sum(map(len, leaf)) if isinstance(leaf, list) else leaf.nbytes for leaf in values)
    return 0


def _skipped(folder: Path, part: Part) -> list[tuple[int, str]]:
    file = folder / f"{part.name}.skipped.json"
    return [(int(number), why) for number, why in json.loads(file.read_text())]


def _run(parts: Sequence[Part], plan: ImportPlan, processes: int, advance: Callable[[int], None]) -> None:
    job = plan.reference, plan.source.identity, plan.folder, plan.bad
    if processes <= 1:
        for part in parts:
            import_part(*job, part, advance)
        return
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    executor = concurrent.futures.ProcessPoolExecutor(processes, context, initializer=_start, initargs=(channel,))
    try:
        waiting = {executor.submit(_work, *job, part) for part in parts}
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED)
            with contextlib.suppress(queue.Empty):
                while True:
                    advance(channel.get_nowait())
            for future in done:
                future.result()
    except BrokenProcessPool as error:
        raise SourceError(
            "an importing process died (is the memory full?); run the same command again with fewer processes: it goes "
            "on where it stopped"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_channel: Any = None


def _start(channel: Any) -> None:
    global _channel
    _channel = channel
    start_worker()


def _work(reference: SourceReference, identity: str, folder: Path, bad: Bad, part: Part) -> None:
    import_part(reference, identity, folder, bad, part, _channel.put)


@functools.lru_cache(maxsize=1)
def _source(reference: SourceReference, identity: str) -> OpenSource:
    """The process's own. Raises SourceError if the data are not those of the plan any more."""
    source = open_source(reference)
    if source.identity != identity:
        raise SourceError(f"{source.name}: the data changed while they were imported; run the same command again")
    return source


def import_part(
    reference: SourceReference, identity: str, folder: Path, bad: Bad, part: Part, advance: Callable[[int], None]
) -> None:
    """Writes one part into ``folder``; ``advance(n)`` after n more records. Raises as `import_source`."""
    source, skipped = _source(reference, identity), []
    path = folder / part.name
    with StoreWriter(path, source.name, source.spec, source.metadata, jpeg=source.jpeg, part=True) as writer:
        for count, index in enumerate(range(part.start, part.stop), 1):
            try:
                for episode in source.read(index):
                    writer.write(episode)
            except GatoError as error:
                if bad == "fail" or isinstance(error, StoreError):
                    raise
                skipped.append((index, str(error)))
            if count % _REPORT == 0:
                advance(_REPORT)
        # Before the part itself appears: it is complete only with the list.
        (folder / f"{part.name}.skipped.json").write_text(json.dumps(skipped))
    advance((part.stop - part.start) % _REPORT)


def _tidy(dest: Path, parts: Sequence[Part]) -> None:
    """Removes what only the parts needed. Nothing depends on it."""
    leftovers: Iterator[Path] = (
        file
        for part in parts
        for file in (
            *((dest / part.name / name) for name in ("store.json", "index.npz", "episodes.jsonl")),
            dest / f"{part.name}.skipped.json",
        )
    )
    for file in (*leftovers, dest / "import.json"):
        with contextlib.suppress(OSError):
            file.unlink()
