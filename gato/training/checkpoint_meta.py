"""What a checkpoint says beside its parameters: the item `meta`, which is all that a deployment needs to know."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from gato.model.config import ModelConfig
from gato.tokenizers.errors import GatoError
from gato.tokenizers.layout import Layout
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.vocabulary import Vocabulary

FORMAT = 3


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
