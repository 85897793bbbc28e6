"""Small synthetic stores of every kind of source, whose values say where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gato.data_pipelines.collate import LISTS
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "judge")

VECTORS = EpisodeSpec.of(
    {"hand": LeafSpec("continuous", (3,)), "clock": LeafSpec("discrete", (2,), values=1024)},
    LeafSpec("continuous", (2,), low=-1.0, high=1.0),
)
PIXELS = EpisodeSpec.of({"image": LeafSpec("image", (48, 32, 3))}, LeafSpec("discrete", values=4))
MISSIONS = EpisodeSpec.of(
    {"mission": LeafSpec("text"), "clock": LeafSpec("discrete", (2,), values=1024)}, LeafSpec("discrete", values=7)
)
TEXT = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
CAPTIONS = EpisodeSpec.of({"image": LeafSpec("image", (32, 32, 3)), "text": LeafSpec("text")}, {}, "document")


def make_tokenizer(layout: Layout | None = None) -> SequenceTokenizer:
    return SequenceTokenizer(Vocabulary(), TextTokenizer.default(), layout or Layout())


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def clock(number: int, steps: int) -> np.ndarray:
    """[steps, 2]: the episode's number and the timestep, so that a token says where it is from."""
    return np.stack([np.full(steps, number), np.arange(steps)], axis=1)


def vectors_episode(rng: np.random.Generator, number: int, steps: int) -> Episode:
    observations = {"hand": rng.normal(size=(steps, 3)).astype(np.float32), "clock": clock(number, steps)}
    actions = {"action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32)}
    return Episode(observations, actions, np.full(steps, 1 / steps, np.float32), metadata={"episode_id": number})


def missions_episode(rng: np.random.Generator, number: int, steps: int, changing: bool = False) -> Episode:
    missions = (
        [sentence(rng, int(rng.integers(2, 6))) for _ in range(steps)] if changing else [sentence(rng, 4)] * steps
    )
    return Episode(
        {"mission": missions, "clock": clock(number, steps)},
        {"action": rng.integers(0, 7, steps)},
        np.full(steps, 1 / steps, np.float32),
    )


def pixels_episode(rng: np.random.Generator, number: int, steps: int) -> Episode:
    tiles = rng.integers(0, 5, (steps, 3, 2, 1)) * 40 + number % 3
    image = np.repeat(np.repeat(np.repeat(tiles, 16, 1), 16, 2), 3, 3).astype(np.uint8)
    return Episode({"image": image}, {"action": rng.integers(0, 4, steps)}, np.full(steps, 1 / steps, np.float32))


def text_document(rng: np.random.Generator, number: int) -> Episode:
    words = int(rng.integers(3, 40)) if number % 10 else 400
    return Episode({"text": [f"{number} {sentence(rng, words)}"]}, {}, np.zeros(1, np.float32))


def captions_document(rng: np.random.Generator, number: int) -> Episode:
    image = rng.integers(0, 3, (1, 2, 2, 3)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    return Episode({"image": image, "text": [sentence(rng, 5)]}, {}, np.zeros(1, np.float32))


def write_store(path: Path, name: str, spec: EpisodeSpec, episodes: list[Episode]) -> Path:
    with StoreWriter(path, name, spec, {"suite": "synthetic", "task": name, "agent": "rule"}) as writer:
        for episode in episodes:
            writer.write(episode)
    return path


def write_all(root: Path) -> dict[str, Path]:
    """One store of each kind: name -> folder."""
    rng = np.random.default_rng(0)

    def steps() -> int:
        return int(rng.integers(3, 40))

    stores = {
        "vectors": (VECTORS, [vectors_episode(rng, k, steps()) for k in range(20)]),
        "missions": (MISSIONS, [missions_episode(rng, k, steps()) for k in range(20)]),
        "changing": (MISSIONS, [missions_episode(rng, k, steps(), changing=True) for k in range(10)]),
        "pixels": (PIXELS, [pixels_episode(rng, k, steps()) for k in range(10)]),
        "text": (TEXT, [text_document(rng, k) for k in range(60)]),
        "captions": (CAPTIONS, [captions_document(rng, k) for k in range(40)]),
    }
    return {name: write_store(root / name, name, spec, episodes) for name, (spec, episodes) in stores.items()}


def assert_same_batch(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def one_group(
    batches: Sequence[dict[str, np.ndarray]], hosted: Sequence[Sequence[int]] = ((0,),)
) -> dict[str, np.ndarray]:
    """The hosts' parts of a batch as the one group that a single device would get, without the axis of groups.

    Args:
      batches, hosted: of each host, its part and the groups in it.
    """
    groups: dict[int, dict[str, np.ndarray]] = {}
    for batch, mine in zip(batches, hosted, strict=True):
        size = len(batch["ids"]) // len(mine)
        for k, group in enumerate(mine):
            rows = slice(k * size, (k + 1) * size)
            groups[group] = {name: array[k if name in LISTS else rows] for name, array in batch.items()}
    rows = patches = 0
    for group in (groups[number] for number in range(len(groups))):
        group["patch_index"] = np.where(group["patch_index"] >= 0, group["patch_index"] + patches, -1)
        group["target_index"] = group["target_index"] + np.int32(rows * group["ids"].shape[1])
        rows, patches = rows + len(group["ids"]), patches + len(group["patches"])
    return {name: np.concatenate([groups[n][name] for n in range(len(groups))]) for name in groups[0]}
