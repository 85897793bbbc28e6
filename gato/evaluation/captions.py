"""Captions of held-out scenes, scored by the objects they name, with shuffled images as the control.

A caption lists objects, "a red ball, a green key". Two captions of a scene may differ in order and still be right, so
the score is the F1 between the two multisets of objects, averaged over scenes. Shown the picture of another scene, a
network that looks at pictures must fall to what the language alone gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gato.data_pipelines.sources.captions import object_f1, object_set
from gato.evaluation.scores import bootstrap_interval, success_interval

SAMPLES = 8

# Texts for images [N, H, W, C] and, for questions, a question each.
Generate = Callable[[np.ndarray, Sequence[str] | None], list[str]]


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation of ``count`` >= 2 items in which no item stays in place (one random cycle), int64 [count]."""
    if count < 2:
        raise ValueError(f"shuffling needs at least two items, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    shuffled = np.empty(count, np.int64)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def evaluate_captions(
    generate: Generate, images: np.ndarray, references: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Captions the images, then the same images in another order.

    Args:
      generate: images and None -> texts.
      images: uint8 [N, H, W, C], N >= 2.
      references: N captions.

    Returns:
      ``object_f1`` with its 95 % interval ``low``, ``high``; ``exact``, the share of captions with exactly the right
      objects; ``shuffled_object_f1``; ``episodes`` = N; ``samples``: indices with the reference and the text of the
      first few.
    """
    texts = generate(images, None)
    shuffled = generate(images[derangement(len(images), seed)], None)
    scores = [object_f1(text, reference) for text, reference in zip(texts, references, strict=True)]
    low, high = bootstrap_interval(scores, seed=seed)
    exact = [object_set(text) == object_set(reference) for text, reference in zip(texts, references, strict=True)]
    return {
        "object_f1": float(np.mean(scores)),
        "low": low,
        "high": high,
        "exact": float(np.mean(exact)),
        "shuffled_object_f1": float(np.mean([object_f1(t, r) for t, r in zip(shuffled, references, strict=True)])),
        "episodes": len(references),
        "samples": [
            {"index": i, "reference": references[i], "text": texts[i]} for i in range(min(SAMPLES, len(texts)))
        ],
    }


def evaluate_questions(
    generate: Generate, images: np.ndarray, questions: Sequence[str], references: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Answers the questions, with the right and with shuffled images: share of exact answers, and sample answers."""
    texts = generate(images, questions)
    shuffled = generate(images[derangement(len(images), seed)], questions)
    right = [_same(text, reference) for text, reference in zip(texts, references, strict=True)]
    low, high = success_interval(right)
    return {
        "accuracy": float(np.mean(right)),
        "low": low,
        "high": high,
        "shuffled_accuracy": float(np.mean([_same(t, r) for t, r in zip(shuffled, references, strict=True)])),
        "episodes": len(references),
        "samples": [
            {"index": i, "question": questions[i], "reference": references[i], "text": texts[i]}
            for i in range(min(SAMPLES, len(texts)))
        ],
    }


def _same(text: str, reference: str) -> bool:
    return text.strip().lower() == reference.strip().lower()
