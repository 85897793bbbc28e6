"""How fast the tokenizers are, on one core: values, pixels or characters a second, and the time of a whole episode.

python benchmarks/tokenizers.py [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from result_file import write_result

from gato.tokenizers import continuous, discrete, image
from gato.tokenizers.corpus import stdlib_documents
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

VALUES = 100_000  # a batch's worth, which stays in the cache
STEPS = 100

Row = tuple[str, float, str, float]  # what, how many of them in one run, their unit, seconds of a run


def best_seconds(function: Callable[[], Any], budget: float = 0.3) -> float:
    """Shortest of the runs that fit into the budget: other programs can only make a run longer."""
    function()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def continuous_rows(rng: np.random.Generator) -> list[Row]:
    observation = LeafSpec("continuous", (VALUES,))
    unit = LeafSpec("continuous", (VALUES,), low=-1, high=1)
    scaled = LeafSpec("continuous", (VALUES,), low=-2, high=3)
    rows: list[Row] = []
    for dtype in (np.float32, np.float64):
        wide = (rng.standard_normal(VALUES) * np.exp(2 * rng.standard_normal(VALUES))).astype(dtype)
        narrow = rng.uniform(-1, 1, VALUES).astype(dtype)
        for what, x, leaf, companded in (
            ("mu-law", wide, observation, True),
            ("in [-1, 1]", narrow, unit, False),
            ("scaled", narrow, scaled, False),
        ):
            seconds = best_seconds(functools.partial(continuous.encode, x, leaf, companded, is_action=True))
            rows.append((f"continuous encode, {what}, {dtype.__name__}", VALUES, "values", seconds))
    bins = rng.integers(0, continuous.BINS, VALUES)
    seconds = best_seconds(lambda: continuous.decode(bins, observation, True))
    rows.append(("continuous decode, mu-law", VALUES, "values", seconds))
    values = rng.integers(0, 18, VALUES)
    leaf = LeafSpec("discrete", (VALUES,), values=18)
    rows.append(("discrete encode", VALUES, "values", best_seconds(lambda: discrete.encode(values, leaf))))
    return rows


def image_rows(rng: np.random.Generator) -> list[Row]:
    rows: list[Row] = []
    for height, width, channels in ((64, 64, 3), (84, 84, 1), (224, 224, 3)):
        images = rng.integers(0, 256, (STEPS, height, width, channels), np.uint8)
        seconds = best_seconds(functools.partial(image.to_patches, images))
        rows.append((f"patchify {height}x{width}x{channels}", images.size, "pixel values", seconds))
    return rows


def text_rows(text: TextTokenizer) -> list[Row]:
    documents = [document for document in stdlib_documents() if len(document) > 1024]  # longer than what is cached
    characters = sum(map(len, documents))
    ids = [text.encode(document) for document in documents]
    instruction = ["pick up the grey key next to the red ball"] * 1000
    return [
        ("text encode", characters, "characters", best_seconds(lambda: [text.encode(d) for d in documents])),
        ("text decode", characters, "characters", best_seconds(lambda: [text.decode(i) for i in ids])),
        (
            "text encode, cached",
            1000 * len(instruction[0]),
            "characters",
            best_seconds(lambda: text.encode_batch(instruction)),
        ),
    ]


def episode_rows(text: TextTokenizer, rng: np.random.Generator) -> list[Row]:
    spec = EpisodeSpec.of(
        {
            "goal": LeafSpec("continuous", (3,)),
            "state": LeafSpec("continuous", (39,)),
            "mode": LeafSpec("discrete", (2,), values=7),
            "angle": LeafSpec("continuous", (2,), low=-1, high=1),
            "mission": LeafSpec("text"),
        },
        LeafSpec("continuous", (4,), low=-1, high=1),
    )
    observations: dict[str, Any] = {
        "goal": rng.standard_normal((STEPS, 3)),
        "state": rng.standard_normal((STEPS, 39)).astype(np.float32),
        "mode": rng.integers(0, 7, (STEPS, 2)),
        "angle": rng.uniform(-1, 1, (STEPS, 2)),
        "mission": ["go to the red ball"] * STEPS,
    }
    actions = {"action": rng.uniform(-1, 1, (STEPS, 4))}
    tokenizer = SequenceTokenizer(Vocabulary(), text, Layout())
    tokens = tokenizer.tokenize(observations, actions, spec)
    step = {path: value[:1] for path, value in observations.items()}
    ids = tokens.ids[-4:]
    return [
        (
            f"episode of {STEPS} steps, 5 leaves",
            len(tokens),
            "tokens",
            best_seconds(lambda: tokenizer.tokenize(observations, actions, spec)),
        ),
        (
            "one step to act on",
            len(tokens) / STEPS,
            "tokens",
            best_seconds(lambda: tokenizer.tokenize(step, None, spec)),
        ),
        ("decode one action", 4, "tokens", best_seconds(lambda: tokenizer.decode_actions(ids, spec))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    text = TextTokenizer.default()
    measured = [*continuous_rows(rng), *image_rows(rng), *text_rows(text), *episode_rows(text, rng)]
    rows: list[dict[str, Any]] = [
        {"name": name, "unit": unit, "per_second": amount / seconds, "milliseconds": seconds * 1e3}
        for name, amount, unit, seconds in measured
    ]
    print(f"{'':44} {'million a second':>17}  {'milliseconds':>12}")
    for row in rows:
        print(f"{row['name']:44} {row['per_second'] / 1e6:17.2f}  {row['milliseconds']:12.3f}  {row['unit']}")
    write_result(arguments.json, rows, ("numpy", "sentencepiece"))


if __name__ == "__main__":
    main()
