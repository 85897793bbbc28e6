"""The shape of a Gato network: one frozen dataclass, checked when it is built, written to and read from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from gato.fields import check_fields
from gato.tokenizers.errors import GatoError


class ModelError(GatoError):
    """A model configuration contradicts itself, or an input does not fit the model."""


@dataclasses.dataclass(frozen=True)
class PatchConfig:
    """The ResNet block that turns a 16 x 16 x 3 patch into a vector (Gato section 2.2; the widths are ours).

    Attributes:
      width: channels of the stem and of the block.
      kernel, stride: of the stem convolution. Gato's presets keep the full 16 x 16 grid (3, 1); the small presets cut
        the patch into tiles of 4 x 4 pixels (4, 4), which costs 16 times less.
      pool: side of the grid that mean pooling leaves; 4 keeps every tile of the small presets where it is.
      groups: of all GroupNorms.
    """

    width: int = 128
    kernel: int = 3
    stride: int = 1
    pool: int = 2
    groups: int = 32

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ModelError(f"patch.width {self.width} must be a multiple of patch.groups {self.groups}")
        if self.stride not in (1, 2, 4, 8):
            raise ModelError(
                f"patch.stride {self.stride} must be 1, 2, 4 or 8: it divides 16 and leaves at least a 2 x 2 grid"
            )
        if self.pool < 1 or 16 // self.stride % self.pool:
            raise ModelError(f"patch.pool {self.pool} must divide the {16 // self.stride} tiles a side")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the parameters and the arithmetic of the network.

    Attributes:
      width: D, the size of the residual stream.
      layers, heads, head_dim: of the transformer. heads * head_dim need not be the width.
      hidden: of the feed-forward: its halves are the GEGLU's gate and value, so it has 1.5 * D * hidden parameters.
      vocabulary_size: rows of the embedding table, `Vocabulary.table_size`.
      continuous_start, continuous_bins: the rows of the continuous bins, which start smooth, see `smooth`.
      position: ``transformer_xl`` (Gato's, see `relative`) or ``rope`` (faster).
      patch: the patch ResNet.
      local_positions: rows of the local-position table: the longest observation of one timestep, in tokens.
      stochastic_depth: probability that a sub-layer of a row is skipped in training (0.1 in pre-training).
      dropout: of the embedding and of every sub-layer's output in training (0.1 in fine-tuning only).
      scan_layers: one compiled body for all blocks but the last (short compile time), or one for each (10 % faster on
        a CPU).
      remat: what the backward pass computes again instead of keeping it, ``none``, ``full``: everything inside a block,
        or ``dots``: what is not a product with a weight, so attention, norms and activations.
      dtype: of the matrix multiplications' inputs. Norms, softmax and logits are always float32, and so are parameters
        in training; for acting see `gato.model.precision`.
      attention: ``auto`` takes the fused attention kernel that fits the platform, if there is one that is known to
        work there; ``xla`` never takes one; ``fused`` takes one or raises, see `gato.model.attention`.
      attention_block: queries and keys in one tile of the XLA backends; None: 128 on CPUs, 512 elsewhere.
    """

    width: int
    layers: int
    heads: int
    head_dim: int
    hidden: int
    vocabulary_size: int = 33_152
    continuous_start: int = 32_000
    continuous_bins: int = 1_024
    position: Literal["transformer_xl", "rope"] = "transformer_xl"
    patch: PatchConfig = PatchConfig()
    local_positions: int = 512
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    scan_layers: bool = True
    remat: Literal["none", "full", "dots"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "xla", "fused"] = "auto"
    attention_block: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "width",
            "layers",
            "heads",
            "head_dim",
            "hidden",
            "vocabulary_size",
            "local_positions",
            "attention_block",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ModelError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("width", "head_dim", "hidden"):
            if getattr(self, name) % 2:
                raise ModelError(f"model.{name} must be even, got {getattr(self, name)}")
        for name in ("stochastic_depth", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ModelError(f"model.{name} is a probability in [0, 1), got {getattr(self, name)}")
        for name, choices in (
            ("position", ("transformer_xl", "rope")),
            ("remat", ("none", "full", "dots")),
            ("dtype", ("float32", "bfloat16")),
            ("attention", ("auto", "xla", "fused")),
        ):
            if getattr(self, name) not in choices:
                raise ModelError(f"model.{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if self.continuous_start + self.continuous_bins > self.vocabulary_size:
            raise ModelError(
                f"model.vocabulary_size {self.vocabulary_size} ends before the continuous bins do "
                f"({self.continuous_start} + {self.continuous_bins}); use preset(name, vocabulary=...)"
            )

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed; of `patch`, a dictionary changes single fields.

        Raises `ModelError` with a suggestion for an unknown field, and for a value of another type.
        """
        check_fields(ModelConfig, changes, "model", ModelError)
        if isinstance(changes.get("patch"), Mapping):
            check_fields(PatchConfig, changes["patch"], "model.patch", ModelError)
            changes["patch"] = dataclasses.replace(self.patch, **changes["patch"])
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """JSON data; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ModelConfig:
        """Raises `ModelError` with a suggestion for an unknown field, and for a value of another type."""
        fields = dict(data)
        check_fields(ModelConfig, fields, "model", ModelError)
        if isinstance(fields.get("patch"), Mapping):
            check_fields(PatchConfig, fields["patch"], "model.patch", ModelError)
            fields["patch"] = PatchConfig(**fields["patch"])
        missing = [
            f.name for f in dataclasses.fields(ModelConfig) if f.default is dataclasses.MISSING and f.name not in fields
        ]
        if missing:
            raise ModelError(
                f"model: missing {', '.join(missing)}; a preset has all of them: gato.model.presets.preset(name)"
            )
        return ModelConfig(**fields)
