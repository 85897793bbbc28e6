"""Checkpoints through orbax v1, behind this one file.

Layout: ``<run>/checkpoints/<step>/{params, optimizer, data, meta}``. Inference and fine-tuning read `params` and
`meta` only; `meta` alone says everything about the network that a deployment needs. A step counts as saved once its
commit file exists, so a process killed while it writes leaves nothing that is taken for a checkpoint (without the
commit file, orbax would take any directory named by a number for one on a local disk).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gato.model.config import ModelConfig
from gato.tokenizers.errors import GatoError
from gato.tokenizers.layout import Layout
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.step import TrainState

FOLDER = "checkpoints"
FORMAT = 1


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


# Every one of its threads logs the traceback of a failed write, a thousand lines in all, and then it is raised as well.
logging.getLogger("absl").addFilter(_not_from_orbax)


class CheckpointError(GatoError):
    """A checkpoint is missing, damaged, or belongs to something else; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class SourceMeta:
    """What acting needs to know about one source of the training data.

    Attributes:
      spec: the embodiment's leaves.
      task: "suite/task" as `get_task` knows it, or "" for documents.
      window_timesteps: timesteps of a training window (``None``: as many as a row holds).
      prompt_timesteps: most timesteps of a training prompt.
      statistics: what the recipe's conditioning wants to know about the source's returns.
    """

    spec: EpisodeSpec
    task: str = ""
    window_timesteps: int | None = None
    prompt_timesteps: int | None = None
    statistics: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_json(),
            "task": self.task,
            "window_timesteps": self.window_timesteps,
            "prompt_timesteps": self.prompt_timesteps,
            "statistics": dict(self.statistics),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SourceMeta:
        return SourceMeta(**{**data, "spec": EpisodeSpec.from_json(data["spec"])})


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """Everything beside the parameters that a deployment needs.

    Attributes:
      model: the network.
      vocabulary: ids.
      text_model: serialized SentencePiece model.
      recipe: name for `get_recipe`.
      layout: the recipe's layout when the network was trained.
      sources: name -> what acting needs to know of it.
      length: tokens in a training row.
      step: updates made.
    """

    model: ModelConfig
    vocabulary: Vocabulary
    text_model: bytes
    recipe: str
    layout: Layout
    sources: Mapping[str, SourceMeta]
    length: int
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "text_model": base64.b64encode(self.text_model).decode(),
            "recipe": self.recipe,
            "layout": self.layout.to_json(),
            "sources": {name: source.to_json() for name, source in self.sources.items()},
            "length": self.length,
            "step": self.step,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckpointMeta:
        if data.get("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint format {data.get('format')!r}, this version reads {FORMAT}: use the version that wrote it"
            )
        return CheckpointMeta(
            model=ModelConfig.from_json(data["model"]),
            vocabulary=Vocabulary.from_json(data["vocabulary"]),
            text_model=base64.b64decode(data["text_model"]),
            recipe=data["recipe"],
            layout=Layout.from_json(data["layout"]),
            sources={name: SourceMeta.from_json(source) for name, source in data["sources"].items()},
            length=data["length"],
            step=data["step"],
        )


def _context() -> ocp.Context:
    context = ocp.Context()
    context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    registry = ocp.handlers.local_registry()
    for name in ("data", "meta"):
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    context.checkpointables.registry = registry
    return context


class Checkpoints:
    """The checkpoints of one run. Saving is asynchronous; one save is in flight at most."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        """`keep`: the newest `keep` checkpoints stay, older ones are deleted."""
        training = ocp.training
        self._directory = Path(run_dir).absolute() / FOLDER
        self._manager = training.Checkpointer(
            self._directory,
            context=_context(),
            # The caller decides when to save; orbax' own policy would drop a save while another is in flight.
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def latest(self) -> int | None:
        """Newest saved step, or ``None``."""
        newest = self._manager.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], meta: CheckpointMeta) -> None:
        """Starts a save, after waiting for the one before. Raises `CheckpointError` where the disk refuses.

        `data` is JSON: the loader's state *before* it hands out the batch of the next step.
        """
        with self._writable():
            self._manager.wait()
            self._manager.save_checkpointables_async(
                step,
                {
                    "params": state.params,
                    "optimizer": state.opt_state,
                    "data": dict(data),
                    "meta": dataclasses.replace(meta, step=step).to_json(),
                },
            )

    def wait(self) -> None:
        """Returns once the save in flight is on disk. Raises `CheckpointError` where the disk refuses."""
        with self._writable():
            self._manager.wait()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turns what a refused write raises into `CheckpointError`: for a full disk, a ValueError of TensorStore's."""
        try:
            yield
        except Exception as error:
            good = saved_steps(self._directory.parent)
            raise CheckpointError(
                f"{self._directory}: cannot write the checkpoint ({_first_line(error)}); free space or fix the "
                f"permissions, then start the same command again: it resumes from step {good[-1] if good else 0}"
            ) from error

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(state, data) of a saved step, with the shapes, dtypes and shardings of `like` (arrays or
        `jax.ShapeDtypeStruct` with a sharding). Raises `CheckpointError`."""
        path = self._directory / str(step)
        loaded = _load(path, {"params": abstract(like.params), "optimizer": abstract(like.opt_state), "data": None})
        count = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), like.step.sharding)
        state = TrainState(step=count, params=loaded["params"], opt_state=loaded["optimizer"])
        return state, loaded["data"]

    def close(self) -> None:
        """Waits for the save in flight. Raises `CheckpointError` where the disk refuses."""
        with self._writable():
            self._manager.close()


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def saved_steps(run_dir: Path) -> list[int]:
    """Steps of the complete checkpoints in a run directory, ascending."""
    folder = Path(run_dir) / FOLDER
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and _is_complete(path))


def _is_complete(path: Path) -> bool:
    return (path / "commit_success.txt").exists()


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
    return CheckpointMeta.from_json(_load(find_checkpoint(path), {"meta": None})["meta"])


def load_for_inference(path: Path | str) -> tuple[Any, CheckpointMeta]:
    """Parameters, on the first device, and meta of a checkpoint or of the newest one of a run directory.

    Args:
      path: ``<run>`` or ``<run>/checkpoints/<step>``.

    Raises:
      CheckpointError: no checkpoint there, or a damaged one.
    """
    checkpoint = find_checkpoint(path)
    meta = load_meta(checkpoint)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with _readable(checkpoint), _context():
        saved = ocp.checkpointables_metadata(checkpoint).metadata["params"]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)
    return _load(checkpoint, {"params": shapes})["params"], meta


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


def _load(path: Path, abstract_items: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in abstract_items if not (path / name).is_dir()]
    if missing:
        raise CheckpointError(f"{path}: damaged: {', '.join(missing)} is missing; {_way_out(path)}")
    with _readable(path), _context():
        return ocp.load_checkpointables(path, abstract_items)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever the reading of a damaged checkpoint raises into a `CheckpointError`."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)}); {_way_out(path)}") from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _way_out(path: Path) -> str:
    older = [step for step in saved_steps(path.parent.parent) if str(step) != path.name]
    if older:
        return f"delete this directory to continue from step {older[-1]}, or give {path.parent / str(older[-1])}"
    return "delete this directory to start again; there is no other checkpoint"
