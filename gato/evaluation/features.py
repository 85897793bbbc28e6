"""What a specialist sees: fixed-size arrays for a small network, one encoder for each leaf, fitted to demonstrations.

Numbers are standardised, discrete values become embeddings, an instruction is the set of its words, a picture is the
row of its 16 x 16 patches.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gato.tokenizers import image
from gato.tokenizers.continuous import mu_law
from gato.tokenizers.spec import EpisodeSpec

WORD = re.compile(r"[a-z0-9]+")
# A number further out than this many standard deviations is clipped: the network never saw it.
FARTHEST = 5.0
TILES = 16  # of a patch
SMALLEST_DEVIATION = 1e-6


def flat_patches(images: Any) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, n, 768]: the 16 tiles of 4 x 4 pixels of each patch, one after the other."""
    patches = image.to_patches(np.asarray(images, np.uint8))
    tiled = patches.reshape(*patches.shape[:2], 4, 4, 4, 4, 3).swapaxes(3, 4)
    return tiled.reshape(*patches.shape[:2], -1)


class PatchTable:
    """Distinct patches of many pictures, each kept once: games and grids repeat them, and memory is not endless."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def add(self, images: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, C] -> int32 [T, n], the number of each patch."""
        patches = flat_patches(images)
        rows = patches.reshape(-1, patches.shape[-1])
        numbers = [self._numbers.setdefault(row.tobytes(), len(self._numbers)) for row in rows]
        return np.array(numbers, np.int32).reshape(patches.shape[:2])

    def pixels(self) -> np.ndarray:
        """uint8 [distinct patches, 768]."""
        return np.frombuffer(b"".join(self._numbers), np.uint8).reshape(len(self._numbers), -1)


@dataclasses.dataclass(frozen=True)
class Features:
    """The encoder of one embodiment.

    Attributes:
      spec: the embodiment.
      means, deviations: leaf path -> [n], of the continuous leaves' raw values followed by their mu-law.
      words: leaf path -> word -> its place in the bag.
    """

    spec: EpisodeSpec
    means: Mapping[str, np.ndarray]
    deviations: Mapping[str, np.ndarray]
    words: Mapping[str, Mapping[str, int]]

    @staticmethod
    def fit(observations: Mapping[str, Any], spec: EpisodeSpec) -> Features:
        """``observations``: leaf path -> array [N, *shape], or N strings."""
        means, deviations, words = {}, {}, {}
        for path, leaf in spec.observations.items():
            if leaf.modality == "continuous":
                values = _numbers(observations[path])
                means[path] = values.mean(axis=0)
                deviations[path] = np.maximum(values.std(axis=0), SMALLEST_DEVIATION)
            elif leaf.modality == "text":
                found = sorted({word for text in set(observations[path]) for word in WORD.findall(text.lower())})
                words[path] = {word: place for place, word in enumerate(found)}
        return Features(spec, means, deviations, words)

    def encode(self, observations: Mapping[str, Any], except_for: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Leaf path -> [N, n] float32 (numbers, bags of words), int32 (discrete) or uint8 [N, n, 768] (patches)."""
        encoded = {}
        for path, leaf in self.spec.observations.items():
            if path in except_for:
                continue
            values = observations[path]
            if leaf.modality == "continuous":
                standard = (_numbers(values) - self.means[path]) / self.deviations[path]
                encoded[path] = np.clip(standard, -FARTHEST, FARTHEST).astype(np.float32)
            elif leaf.modality == "text":
                encoded[path] = self._bags(values, self.words[path])
            elif leaf.modality == "discrete":
                encoded[path] = np.asarray(values, np.int32).reshape(len(values), -1)
            else:
                encoded[path] = flat_patches(values)
        return encoded

    def _bags(self, texts: Sequence[str], places: Mapping[str, int]) -> np.ndarray:
        known: dict[str, list[int]] = {}
        bags = np.zeros((len(texts), max(1, len(places))), np.float32)
        for row, text in enumerate(texts):
            if text not in known:
                known[text] = [places[word] for word in WORD.findall(text.lower()) if word in places]
            bags[row, known[text]] = 1.0
        return bags


def _numbers(values: Any) -> np.ndarray:
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    return np.concatenate([flat, mu_law(flat)], axis=1)
