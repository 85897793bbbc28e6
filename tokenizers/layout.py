"""A recipe's layout: which tokens stand in a timestep, in which order, and how strongly each kind is learned.

This is data, not code: the tokenizer reads it, so a recipe never branches inside the model, the trainer or the loader.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gato.tokenizers.errors import SpecError
from gato.tokenizers.spec import LeafSpec

# Kinds of token, as the loss weights and the metrics name them. Tokens that a recipe adds (``Layout.derived``) carry
# the kind "derived". The position in this tuple is the code stored in `TokenSequence.kinds`.
KINDS = ("text", "discrete", "continuous", "patch", "separator", "action", "derived", "special")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Order and loss weight of the tokens of a timestep.

    Attributes:
      timestep: parts of a control timestep in order: ``observation``, ``separator``, ``action`` or a name in `derived`.
      weights: kind -> loss weight m(b, l) (Gato section 2.3); kinds not named weigh 0. A derived leaf may be named too.
      derived: leaves that the recipe computes from the episode, e.g. a return-to-go, one value a timestep.
    """

    timestep: tuple[str, ...] = ("observation", "separator", "action")
    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"text": 1.0, "action": 1.0})
    derived: Mapping[str, LeafSpec] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {"observation", "separator", "action", *self.derived}
        for part in self.timestep:
            if part not in known:
                raise SpecError(f"layout part {part!r} is not one of {', '.join(sorted(known))}")
        for kind, weight in self.weights.items():
            if kind not in KINDS and kind not in self.derived:
                raise SpecError(
                    f"loss weight for unknown kind {kind!r}; kinds are {', '.join((*KINDS, *self.derived))}"
                )
            if not weight >= 0:
                raise SpecError(f"loss weight of {kind!r} must be >= 0, got {weight}")

    def to_json(self) -> dict[str, Any]:
        return {
            "timestep": list(self.timestep),
            "weights": dict(self.weights),
            "derived": {name: leaf.to_json() for name, leaf in self.derived.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layout:
        derived = {name: LeafSpec.from_json(leaf) for name, leaf in data["derived"].items()}
        return Layout(tuple(data["timestep"]), dict(data["weights"]), derived)
