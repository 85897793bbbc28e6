"""Everything that a training run needs, as frozen dataclasses with a JSON round trip."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

from gato.data_pipelines.mixture import SourceConfig
from gato.fields import ConfigError, check_fields
from gato.model.config import ModelConfig
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; ``data = -1`` takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      model: the network; its `vocabulary_size` is the vocabulary's `table_size`.
      sources: the mixture.
      recipe: name for `gato.recipes.recipe.get_recipe`.
      batch_size, length: rows of a global batch, tokens of a row.
      steps: optimizer updates of the whole run.
      optimizer: AdamW, schedule and clipping.
      seed: of parameters, rows and dropout.
      initial: run directory or checkpoint whose parameters the run starts from; ``None``: from scratch.
      text_model: path of a SentencePiece model; ``None`` is the default one of 32,000 pieces.
      extra_tokens: names of further special tokens of the vocabulary.
      mesh: how the devices are arranged.
      accumulate: micro-batches that a batch is cut into, one after the other: less memory, the same gradient.
      log_every: steps between two lines of metrics; losses are means over all the steps in between.
      checkpoint_every: steps between two checkpoints; the last step is always saved.
      keep: newest checkpoints that stay on disk.
      on_nonfinite: at a step whose loss or gradient is not finite, ``"stop"`` the run, or ``"skip"`` the step, so that
        parameters and optimizer, its place in the schedule included, stay as they were.
      validation_every: steps between two validation losses on the held-out episodes; 0: never.
      validation_batches: batches of one validation loss.
      wandb: project at Weights & Biases that gets the metrics too; ``None``: no one gets them.
      loader_threads: threads that prepare batches.
      loader_workers: processes that prepare batches, each with so many threads; 0: this process does.
    """

    model: ModelConfig
    sources: tuple[SourceConfig, ...]
    recipe: str = "gato"
    batch_size: int = 512
    length: int = 1024
    steps: int = 1_000_000
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    seed: int = 0
    initial: str | None = None
    text_model: str | None = None
    extra_tokens: tuple[str, ...] = ()
    mesh: MeshConfig = MeshConfig()
    accumulate: int = 1
    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 3
    on_nonfinite: Literal["stop", "skip"] = "stop"
    validation_every: int = 0
    validation_batches: int = 8
    wandb: str | None = None
    loader_threads: int = 2
    loader_workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "extra_tokens", tuple(self.extra_tokens))
        if not self.sources:
            raise ConfigError("sources: a run needs at least one")
        for name in (
            "batch_size",
            "steps",
            "accumulate",
            "log_every",
            "checkpoint_every",
            "keep",
            "validation_batches",
            "loader_threads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ConfigError(f"on_nonfinite must be 'stop' or 'skip', got {self.on_nonfinite!r}")
        if self.loader_workers < 0:
            raise ConfigError(f"loader_workers must be >= 0 (0: this process), got {self.loader_workers}")
        if self.length < 2:
            raise ConfigError(f"length must be at least 2 tokens, got {self.length}")
        if self.validation_every < 0:
            raise ConfigError(f"validation_every must be >= 0 (0: never), got {self.validation_every}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must be in [0, 2^31), got {self.seed}")

    def check_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Raises `ConfigError` if the model's table was not built for this vocabulary."""
        model = self.model
        if (model.vocabulary_size, model.continuous_start) != (vocabulary.table_size, vocabulary.text_size):
            raise ConfigError(
                f"model.vocabulary_size is {model.vocabulary_size} with bins from {model.continuous_start}, but the "
                f"vocabulary needs {vocabulary.table_size} rows and bins from {vocabulary.text_size}: "
                "build the model with preset(name, vocabulary=...)"
            )

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """JSON data (tuples become lists); `from_json` reads it back."""
        return _listed({**dataclasses.asdict(self), "model": self.model.to_json()})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrainConfig:
        """Raises `ConfigError` with a suggestion for an unknown field, and for a value of another type."""
        fields = dict(data)
        for name in ("model", "sources"):
            if name not in fields:
                raise ConfigError(f"a training configuration needs {name!r}")
        if not isinstance(fields["sources"], (list, tuple)):
            raise ConfigError(f"sources must be a list of dictionaries, got {fields['sources']!r}")
        if not isinstance(fields["model"], ModelConfig):
            fields["model"] = ModelConfig.from_json(fields["model"])
        fields["sources"] = tuple(
            _build(SourceConfig, source, f"sources[{i}]") for i, source in enumerate(fields["sources"])
        )
        for name, cls in (("optimizer", OptimizerConfig), ("mesh", MeshConfig)):
            if name in fields:
                fields[name] = _build(cls, fields[name], name)
        return _build(TrainConfig, fields, "")


def _build(cls: type, data: Any, where: str) -> Any:
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a dictionary of its fields, got {data!r}")
    check_fields(cls, data, where, ConfigError)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
