"""Imports a source of another format into a training store: in parts, by several processes, resumable, idempotent.

A source is cut into parts of about 64 MB, a function of the data alone. Each process writes whole parts, each a small
store of its own; the store is their concatenation. A part is there or it is not, so an interrupted import goes on with
the parts that are missing, and the result does not depend on the number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gato.data_pipelines import store_format
from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.errors import EmptyDocument, SourceError, StoreError
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.readers.registry import OpenSource, SourceReference, open_source
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter, merge_parts
from gato.data_pipelines.worker_process import as_finished, tell, worker_pool
from gato.tokenizers.errors import GatoError, counted

PART_BYTES = 64 << 20
PART_RECORDS = 1 << 16  # at most: where a record gives little or nothing, reading it is what takes time
Bad = Literal["fail", "skip"]
_SAMPLED = 5  # records whose size tells how many make a part
_REPORT = 32  # records between two signs of life of a worker


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
      store: the folder. episodes, timesteps: in it.
      skipped: (record, why) of what was left out because it was bad: an episode, or the rest of a record.
      already_there: whether the folder held this very import before.
      empty: documents without text, which were left out.
      kind: of the episodes, "control" or "document".
    """

    store: Path
    episodes: int
    timesteps: int
    skipped: list[tuple[int, str]]
    already_there: bool
    empty: int = 0
    kind: str = "control"


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
      bad: what to do with an episode that is damaged or does not match the spec, and with a file that cannot be opened:
        stop, or leave it out and list it.
      processes: that read and write; the store does not depend on it.
      progress: whether to show it on stderr.

    Raises:
      SourceError: the source cannot be read; the message names the file, the record and the leaf. A file that cannot
        even be opened is refused before anything is written. Parts that were finished are kept: the same call goes on.
      StoreError: ``dest`` holds something else, the disk is full, or nothing is left to import.
    """
    plan = plan_import(reference, dest, bad)
    if isinstance(plan, Imported):
        return plan
    waiting, name = plan.waiting(), plan.source.name
    total = sum(part.stop - part.start for part in plan.parts)
    done = total - sum(part.stop - part.start for part in waiting)
    try:
        with show_progress(total, "importing", progress, done) as advance:
            _run(waiting, plan, min(processes, len(waiting)), lambda count: advance(count, name))
    except GatoError:
        plan.tidy()
        raise
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
        if self.bad == "fail" and _left_out(self.folder, part)[0]:
            shutil.rmtree(self.folder / part.name)
            return False
        return True

    def tidy(self) -> None:
        """After a refusal: removes the folder unless a part in it is finished, with which the same call goes on."""
        if len(self.waiting()) == len(self.parts):
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> Imported:
        """Makes the finished parts one store, atomically."""
        records = len(self.source.reader)
        left_out = [_left_out(self.folder, part) for part in self.parts]
        skipped, empty = [entry for bad, _ in left_out for entry in bad], sum(count for _, count in left_out)
        about: dict[str, Any] = {"identity": self.identity, "identities": dict(self.source.identities)}
        about |= {"format": self.source.format, "records": records}
        about |= {"skipped": len(skipped), "empty": empty}
        parts = [self.folder / part.name for part in self.parts]
        if not any(len(Store(part)) for part in parts):
            why = "the source, or its transform, gives no episode"
            if empty:
                why += f"; it has {counted(empty, 'empty document')}"
            if skipped:
                why = f"no episode is left, {counted(len(skipped), 'bad record')} skipped; the first: {skipped[0][1]}"
            shutil.rmtree(self.folder, ignore_errors=True)
            raise StoreError(f"{self.dest}: {why}")
        merge_parts(parts, self.folder, {**self.source.metadata, "import": about})
        with _writing(self.dest):
            (self.folder / "skipped.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in skipped))
            os.rename(self.folder, self.dest)
        _tidy(self.dest)
        return _imported(self.dest, skipped, already_there=False)


def plan_import(reference: SourceReference, dest: str | os.PathLike[str], bad: Bad = "fail") -> ImportPlan | Imported:
    """Opens the source and cuts it into parts; `Imported` if ``dest`` holds this very import already.

    Raises:
      SourceError, StoreError: as `import_source`.
    """
    dest = Path(dest)
    source = open_source(reference)
    identity = f"{source.identity}-{store_format.VERSION}"
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):  # an empty folder is as good as none
        return _existing(dest, source, identity, bad)
    if bad == "fail" and source.reader.unreadable:
        raise source.reader.unreadable[0]
    folder = dest.with_name(f".{dest.name}.import")
    return ImportPlan(reference, source, dest, folder, _prepare(folder, source, identity, bad), bad, identity)


def _existing(dest: Path, source: OpenSource, identity: str, bad: Bad) -> Imported:
    if not (dest / "store.json").exists():
        raise StoreError(f"{dest}: exists, and is no store; choose another place")
    store = Store(dest)
    found = store.metadata.get("import", {})
    if found.get("identity") != identity:
        what = f"another import ({_difference(found, source)})" if found else "a store that was not imported"
        raise StoreError(f"{dest}: holds {what}; delete it or choose another folder")
    file = dest / "skipped.jsonl"
    listed = file.read_text().splitlines() if file.exists() else []
    skipped = [(int(number), why) for number, why in map(json.loads, listed)]
    if skipped and bad == "fail":
        raise StoreError(
            f"{dest}: was imported without {counted(len(skipped), 'bad record')}; delete it, or say --bad skip again"
        )
    _tidy(dest)  # the import may have been interrupted after its last word
    return _imported(dest, skipped, already_there=True)


def _difference(found: dict[str, Any], source: OpenSource) -> str:
    """What differs between the import that a store holds and this one, in words."""
    before = found.get("identities", {})
    parts = [part for part, now in source.identities.items() if part in before and before[part] != now]
    if len(parts) > 1 and "format or options" in parts:  # the reader's options count as the data's, too
        parts = [part for part in parts if not part.startswith("data files")]
    return f"other {', '.join(parts)}" if parts else "other data, format or options"


def _imported(dest: Path, skipped: list[tuple[int, str]], already_there: bool) -> Imported:
    store = Store(dest)
    empty = store.metadata["import"].get("empty", 0)
    return Imported(
        dest, len(store), int(store.lengths.sum(dtype="int64")), skipped, already_there, empty, store.spec.kind
    )


def _prepare(folder: Path, source: OpenSource, identity: str, bad: Bad) -> list[Part]:
    """The parts of this import; the folder says for which data they are. Parts of other data are thrown away."""
    plan = folder / "import.json"
    for leaving in folder.glob(".part-*.partial"):  # of processes that were killed
        shutil.rmtree(leaving, ignore_errors=True)
    if plan.exists():
        with contextlib.suppress(ValueError, KeyError):
            known = json.loads(plan.read_text())
            if known["identity"] == identity:
                return _parts(len(source.reader), known["part_records"])
    shutil.rmtree(folder, ignore_errors=True)
    per_part = max(1, min(PART_RECORDS, PART_BYTES // max(_usual_size(source, bad), 1)))
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(plan, {"identity": identity, "part_records": per_part})
    return _parts(len(source.reader), per_part)


def _parts(records: int, per_part: int) -> list[Part]:
    starts = range(0, records, per_part)
    return [Part(number, start, min(start + per_part, records)) for number, start in enumerate(starts)]


def _usual_size(source: OpenSource, bad: Bad) -> int:
    """Bytes of a record: the median of some, spread over the source, that give anything; 0 if none of them does."""
    records = len(source.reader)
    chosen = sorted({int(index) for index in np.linspace(0, records - 1, _SAMPLED)})
    sizes = [size for index in chosen if (size := _size(source, index, bad))]
    return int(np.median(sizes)) if sizes else 0


def _size(source: OpenSource, index: int, bad: Bad) -> int:
    """Bytes of the episodes of a record, or more than a part may have: what is beyond is not read."""
    size = 0
    for episode in source.read(index):
        if isinstance(episode, GatoError):
            if bad == "fail" and not isinstance(episode, EmptyDocument):
                raise episode
            continue
        leaves = (*episode.observations.values(), *episode.actions.values())
        size += sum(sum(map(len, leaf)) if isinstance(leaf, list) else np.asarray(leaf).nbytes for leaf in leaves)
        if size > PART_BYTES:
            break
    return size


def _left_out(folder: Path, part: Part) -> tuple[list[tuple[int, str]], int]:
    """What a finished part lacks: (record, why) of what was bad, and the number of empty documents."""
    known = json.loads((folder / f"{part.name}.left_out.json").read_text())
    return [(int(number), why) for number, why in known["bad"]], known["empty"]


def _run(parts: Sequence[Part], plan: ImportPlan, processes: int, advance: Callable[[int], None]) -> None:
    job = plan.reference, plan.source.identity, plan.folder, plan.bad
    if processes <= 1:
        for part in parts:
            import_part(*job, part, advance)
        return
    channel = multiprocessing.get_context("spawn").Queue()
    try:
        with worker_pool(processes, initargs=(channel,)) as executor:
            waiting = {executor.submit(import_part, *job, part, tell): part for part in parts}
            for _ in as_finished(waiting, channel, advance):
                pass
    except BrokenProcessPool as error:
        raise SourceError(
            "an importing process died (is the memory full?); run the same command again with fewer processes: it goes "
            "on where it stopped"
        ) from error


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
    """Writes one part into ``folder``, if it is not there; ``advance(n)`` after n more records.

    Raises as `import_source`.
    """
    path = folder / part.name
    if path.exists():  # a cluster repeats work whose answer got lost
        advance(part.stop - part.start)
        return
    source, skipped, empty = _source(reference, identity), [], 0
    with StoreWriter(path, source.name, source.spec, source.metadata, jpeg=source.jpeg, part=True) as writer:
        for count, index in enumerate(range(part.start, part.stop), 1):
            for episode in source.read(index):
                if isinstance(episode, EmptyDocument):
                    empty += 1
                elif not isinstance(episode, GatoError):
                    writer.write(episode)
                elif bad == "fail":
                    raise episode
                else:
                    skipped.append((index, str(episode)))
            if count % _REPORT == 0:
                advance(_REPORT)
        # Before the part itself appears: it is complete only with the list.
        write_json(folder / f"{part.name}.left_out.json", {"bad": skipped, "empty": empty})
    advance((part.stop - part.start) % _REPORT)


def write_json(file: Path, values: Any) -> None:
    """JSON values, atomically: several processes may write the same."""
    with _writing(file):
        replace_file(file, json.dumps(values))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}; mend it and run again") from error


def _tidy(dest: Path) -> None:
    """Removes what only the parts needed. Nothing depends on it."""
    for pattern in ("part-*/store.json", "part-*/index.npz", "part-*/episodes.jsonl", "part-*.json"):
        for file in dest.glob(pattern):
            with contextlib.suppress(OSError):
                file.unlink()
    for leaving in (*dest.glob(".*.partial"), dest / "import.json"):
        with contextlib.suppress(OSError):
            if leaving.is_dir():
                shutil.rmtree(leaving)
            else:
                leaving.unlink()
