"""One integer line for every kind of token; nothing else in the project hard-codes an id.

    [0, text_size)                  SentencePiece pieces; discrete values share the first 1,024 of these ids
    [text_size, text_size + 1024)   bins of continuous values
    text_size + 1024                the separator between observation and action
    then                            padding, begin, end, and the tokens that a recipe adds

Source: Gato section 2.1 up to the bins; the separator's id and what follows it are ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gato.tokenizers import continuous
from gato.tokenizers.errors import VocabularyError
from gato.tokenizers.spec import LeafSpec

DISCRETE_VALUES = 1024
ROUNDING = 128


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of all tokens.

    Attributes:
      text_size: number of SentencePiece pieces, at least 1,024 because discrete values share their ids.
      extra: names of further special tokens, in the order of their ids.
    """

    text_size: int = 32000
    extra: tuple[str, ...] = ()
    bins: ClassVar[int] = continuous.BINS

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", tuple(self.extra))
        if self.text_size < DISCRETE_VALUES:
            raise VocabularyError(
                f"text_size is {self.text_size}, but discrete values share the first {DISCRETE_VALUES} text ids: "
                f"train a SentencePiece model with at least {DISCRETE_VALUES} pieces"
            )
        names = ("separator", "padding", "begin", "end", *self.extra)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise VocabularyError(f"special token named twice: {', '.join(repeated)}")

    @property
    def separator(self) -> int:
        return self.text_size + self.bins

    @property
    def padding(self) -> int:
        return self.separator + 1

    @property
    def begin(self) -> int:
        return self.separator + 2

    @property
    def end(self) -> int:
        return self.separator + 3

    def special(self, name: str) -> int:
        """Id of a token in `extra`. Raises VocabularyError if there is none of that name."""
        if name not in self.extra:
            raise VocabularyError(f"no special token {name!r}; this vocabulary has {', '.join(self.extra) or 'none'}")
        return self.end + 1 + self.extra.index(name)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.end + 1 + len(self.extra)

    @property
    def table_size(self) -> int:
        """Rows of the embedding table: `size` rounded up to a multiple of 128; the rows beyond are never targets."""
        return -(-self.size // ROUNDING) * ROUNDING

    def legal_ids(self, leaf: LeafSpec, companded: bool = False) -> tuple[int, int]:
        """Half-open range of the ids that one token of this leaf can take.

        A companded leaf with a declared range uses only the bins that this range reaches.

        Raises:
          VocabularyError: an image has no ids, or the leaf has more discrete values than there are ids for.
        """
        if leaf.modality == "text":
            return 0, self.text_size
        if leaf.modality == "discrete":
            values = leaf.values or 0
            if values > DISCRETE_VALUES:
                raise VocabularyError(
                    f"a discrete leaf with {values} values: there are ids for {DISCRETE_VALUES}; "
                    "declare several digits of it as separate leaves, or make it continuous"
                )
            return 0, values
        if leaf.modality == "continuous":
            first, stop = 0, self.bins
            if companded and leaf.low is not None and leaf.high is not None:
                ends = np.clip([np.min(leaf.low), np.max(leaf.high)], -continuous.M, continuous.M)
                first, last = (int(k) for k in continuous.encode(ends, LeafSpec("continuous", (2,)), companded=True))
                stop = last + 1
            return self.text_size + first, self.text_size + stop
        raise VocabularyError("an image patch has no id: it is embedded from its pixels")

    def to_json(self) -> dict[str, Any]:
        return {"text_size": self.text_size, "extra": list(self.extra)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Vocabulary:
        return Vocabulary(data["text_size"], tuple(data["extra"]))

    @property
    def hash(self) -> str:
        """Hexadecimal digest that changes with any id."""
        text = json.dumps({**self.to_json(), "bins": self.bins}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
