"""Checkpoints through orbax v1, behind this one file.

Layout: ``<run>/checkpoints/<step>/{params, optimizer, data, meta, manifest.sha256}``. Inference and fine-tuning read
`params` and `meta` only; `meta` alone says everything about the network that a deployment needs.

A step counts as saved once its manifest exists, which is written last, so a process killed while it writes leaves
nothing that is taken for a checkpoint. Whoever reads a checkpoint compares every byte that it needs with the manifest
first: by itself, TensorStore loads arrays with flipped bits without a word.

With several processes, each writes its own parts of the arrays into the one directory, which all of them must see;
process 0 writes the manifest and deletes what is too old.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the client's barriers have no public name
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from gato.tokenizers.errors import REFUSALS, TRANSIENT
from gato.tokenizers.vocabulary import Vocabulary
from gato.training import manifest
from gato.training.checkpoint_meta import CheckpointError, CheckpointMeta
from gato.training.step import TrainState

FOLDER = "checkpoints"
LONGEST = 24 * 3600  # seconds that processes wait for the checksums; one that is lost ends all of them sooner

_saves = itertools.count()  # every process counts the same


class WriteFailed(CheckpointError):
    """A checkpoint could not be written, for what may be over at the next start."""

    status = TRANSIENT


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


# Every one of its threads logs the traceback of a failed write, a thousand lines in all, and then it is raised as well.
logging.getLogger("absl").addFilter(_not_from_orbax)


def _context() -> ocp.Context:
    context = ocp.Context()
    # Orbax' own mark. Without it, any directory named by a number would be a checkpoint to orbax on a local disk.
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    registry = ocp.handlers.local_registry()
    for name in ("data", "meta"):
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    context.checkpointables.registry = registry
    return context


class Checkpoints:
    """The checkpoints of one run. Saving is asynchronous; one save is in flight at most."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        """`keep`: the newest `keep` checkpoints stay, older ones are deleted. Raises as `save` does."""
        self._run_dir, self._keep = Path(run_dir).absolute(), keep
        self._directory = self._run_dir / FOLDER
        self._in_flight: concurrent.futures.Future[None] | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        with self._writable():
            self._directory.mkdir(parents=True, exist_ok=True)
        steps = saved_steps(self._run_dir)
        if jax.process_index() == 0:
            for path in _numbered(self._run_dir):
                if not _is_complete(path):  # an interrupted save, whose room may be needed
                    shutil.rmtree(path, ignore_errors=True)
        # What a file system tells several machines may differ for a moment; process 0 decides.
        newest = np.int64(max(steps, default=0))
        self._latest = int(multihost_utils.broadcast_one_to_all(newest)) if jax.process_count() > 1 else int(newest)

    @property
    def latest(self) -> int | None:
        """Newest step that is saved or, since this object exists, being saved; or ``None``."""
        return self._latest or None

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], meta: CheckpointMeta) -> None:
        """Starts a save, after waiting for the one before.

        Raises `CheckpointError` where the disk refuses, `WriteFailed` where it failed and may not fail again.

        `data` is JSON: the loader's state *before* it hands out the batch of the next step.
        """
        self.wait()
        items = {
            "params": state.params,
            "optimizer": state.opt_state,
            "data": dict(data),
            "meta": dataclasses.replace(meta, step=step).to_json(),
        }
        with self._writable(), _context():
            writing = ocp.save_checkpointables_async(self._directory / str(step), items, overwrite=True)
        self._latest = step
        self._in_flight = self._background.submit(self._finish, step, writing, next(_saves))

    def _finish(self, step: int, writing: Any, number: int) -> None:
        """In the background: once all processes have written, the manifest; then older checkpoints go."""
        writing.result()
        if jax.process_index() == 0:
            self._complete(step)
        client = distributed.global_state.client
        if client is not None:  # one of several processes
            # Here the others may wait long. At the next save, or when they end, they would for five minutes only.
            client.wait_at_barrier(f"gato/saved/{number}", LONGEST * 1000)

    def _complete(self, step: int) -> None:
        manifest.write_manifest(self._directory / str(step))
        for old in saved_steps(self._run_dir)[: -self._keep]:
            # The manifest first: what is half deleted must not look complete.
            (self._directory / str(old) / manifest.FILE).unlink()
            shutil.rmtree(self._directory / str(old), ignore_errors=True)

    def wait(self) -> None:
        """Returns once the save in flight is complete everywhere. Raises `CheckpointError` where the disk refuses."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            with self._writable():
                in_flight.result()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turns what a refused or failed write raises into `CheckpointError` and `WriteFailed`; bugs stay bugs."""
        try:
            yield
        except (OSError, ValueError) as error:
            steps = saved_steps(self._run_dir)
            kind, way_out = (
                (CheckpointError, "free space or fix the permissions, then start")
                if _is_refusal(error)
                else (WriteFailed, "start")
            )
            raise kind(
                f"{self._directory}: cannot write the checkpoint ({_first_line(error)}); {way_out} the same command "
                f"again: it resumes from step {steps[-1] if steps else 0}"
            ) from error

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(state, data) of a saved step, with the shapes, dtypes and shardings of `like` (arrays or
        `jax.ShapeDtypeStruct` with a sharding). All processes call it, each checks a share of the files.

        The mesh and the number of processes may be others than those that saved. Raises `CheckpointError`."""
        path = self._directory / str(step)
        items = {"params": abstract(like.params), "optimizer": abstract(like.opt_state), "data": None}
        check_together(path, items)
        loaded = _load(path, items)
        updates = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), like.step.sharding)
        state = TrainState(step=updates, params=loaded["params"], opt_state=loaded["optimizer"])
        return state, loaded["data"]

    def close(self) -> None:
        """Waits for the save in flight. Raises `CheckpointError` where the disk refuses."""
        try:
            self.wait()
        finally:
            self._background.shutdown()


def _is_refusal(error: Exception) -> bool:
    """Whether a write failed for what only the user can mend; anything else may be over soon: a file server that does
    not answer, say. TensorStore says the system's error in a ValueError."""
    if isinstance(error, OSError):
        return error.errno in REFUSALS
    return any(os.strerror(number) in str(error) for number in REFUSALS)


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def saved_steps(run_dir: Path) -> list[int]:
    """Steps of the complete checkpoints in a run directory, ascending."""
    return sorted(int(path.name) for path in _numbered(run_dir) if _is_complete(path))


def _numbered(run_dir: Path) -> list[Path]:
    folder = Path(run_dir) / FOLDER
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _is_complete(path: Path) -> bool:
    return (path / manifest.FILE).exists()


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint that `path` means: itself, or the newest of a run directory (or of its ``checkpoints``)."""
    path = Path(path).absolute()
    if not path.exists():
        raise CheckpointError(f"{path}: no such directory; give a run directory or one of its {FOLDER}/<step>")
    if (path / "params").is_dir() and _is_complete(path):
        return path
    run_dir = path.parent if path.name == FOLDER else path
    steps = saved_steps(run_dir)
    if not steps:
        raise CheckpointError(f"{path}: holds no complete checkpoint; train first, or give another run directory")
    return run_dir / FOLDER / str(steps[-1])


def load_meta(path: Path | str) -> CheckpointMeta:
    """The meta of a checkpoint or of a run's newest one. Raises `CheckpointError`."""
    return CheckpointMeta.from_json(_load_checked(find_checkpoint(path), {"meta": None})["meta"])


def load_for_inference(path: Path | str) -> tuple[Any, CheckpointMeta]:
    """Parameters, on the first device, and meta of a checkpoint or of the newest one of a run directory.

    Args:
      path: ``<run>`` or ``<run>/checkpoints/<step>``.

    Raises:
      CheckpointError: no checkpoint there, or a damaged one.
    """
    checkpoint = find_checkpoint(path)
    meta = load_meta(checkpoint)
    _check(checkpoint, ("params",))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved_shapes(checkpoint)
    )
    return load_params(checkpoint, shapes), meta


def saved_shapes(checkpoint: Path) -> Any:
    """Shapes and dtypes of a checkpoint's parameters. Raises `CheckpointError`."""
    with _readable(checkpoint), _context():
        return ocp.checkpointables_metadata(checkpoint).metadata["params"]


def load_params(checkpoint: Path, shapes: Any) -> Any:
    """Those parameters of a checkpoint that `shapes` asks for. Nothing is checked here.

    Args:
      shapes: `jax.ShapeDtypeStruct` with a sharding, in the structure of all parameters or of a part of them.
    """
    context = _context()
    context.pytree.loading.partial_load = True
    return _load(checkpoint, {"params": shapes}, context)["params"]


def check_vocabulary(meta: CheckpointMeta, vocabulary: Vocabulary, text_model: bytes, where: Path) -> None:
    """Raises `CheckpointError` if a checkpoint was trained with other ids or another SentencePiece model."""
    if meta.vocabulary != vocabulary:
        what = f"{meta.vocabulary} of {meta.vocabulary.size} ids, not {vocabulary} of {vocabulary.size}"
    elif meta.text_model != text_model:
        what = "the same number of text pieces, but another SentencePiece model"
    else:
        return
    raise CheckpointError(
        f"{where}: was trained with another vocabulary ({what}), so its tokens mean something else. Use the "
        "checkpoint's own vocabulary, or train in a new run directory"
    )


def _damage(path: Path, items: Collection[str], share: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with these items of a checkpoint, and with the files beside them."""
    try:
        return manifest.damage(path, items, share)
    except OSError as error:  # what the disk itself cannot read
        return [f"{error.filename or manifest.FILE}: {error.strerror}"]


def _check(path: Path, items: Collection[str]) -> None:
    """Raises `CheckpointError` unless every byte of these items is as it was written."""
    found = _damage(path, items)
    if found:
        raise _damaged(path, found)


def check_together(path: Path, items: Collection[str]) -> None:
    """The same by all processes of a run: each reads a share of the files, and all raise where one found something."""
    count = jax.process_count()
    found = _damage(path, items, (jax.process_index(), count))
    if count > 1:
        everywhere = multihost_utils.process_allgather(np.int32(len(found)))
        if everywhere.any() and not found:
            raise CheckpointError(f"{path}: damaged, as process {int(np.argmax(everywhere))} found and says")
    if found:
        raise _damaged(path, found)


def _damaged(path: Path, found: list[str]) -> CheckpointError:
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return CheckpointError(f"{path}: damaged: {'; '.join(found[:3])}{more}; {_way_out(path)}")


def _load_checked(path: Path, items: dict[str, Any]) -> dict[str, Any]:
    _check(path, items)
    return _load(path, items)


def _load(path: Path, items: dict[str, Any], context: ocp.Context | None = None) -> dict[str, Any]:
    with _readable(path), context or _context():
        return ocp.load_checkpointables(path, items)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever the reading of a checkpoint that does not fit raises into a `CheckpointError`."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)}); {_way_out(path)}") from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _way_out(path: Path) -> str:
    """Names the newest other checkpoint that is whole to the last byte."""
    for step in reversed(saved_steps(path.parent.parent)):
        other = path.parent / str(step)
        if other != path and not _damage(other, ("params", "optimizer", "data", "meta")):
            return f"delete this directory to continue from step {step}, or give {other}"
    return "delete this directory to start again; there is no other good checkpoint"
