"""Pictures with words: rendered MiniGrid rooms, captioned and asked about from the simulator's own grid.

A room has 4x4 cells inside its walls, drawn with 16 pixels (one image patch) a cell, two to four objects and the agent.
Captions list the objects as one reads: "a red ball, a green key, a grey box". Questions ask how many objects of a type
there are, what colour the only one of a type has, and whether a certain object is there, in several phrasings.

Rooms of seeds from `EVALUATION_SEED` on and rooms of other seeds are disjoint by construction.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import EVALUATION_SEED, import_package
from gato.data_pipelines.episode import Episode
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

CELLS, TILE = 4, 16
_IMAGE = LeafSpec("image", (CELLS * TILE, CELLS * TILE, 3))
CAPTION_SPEC = EpisodeSpec.of({"image": _IMAGE, "text": LeafSpec("text")}, {}, "document")
QUESTION_SPEC = EpisodeSpec.of(
    {"image": _IMAGE, "question": LeafSpec("text"), "answer": LeafSpec("text")}, {}, "document"
)
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
TYPES = ("ball", "box", "key")

_PLURALS = {"ball": "balls", "box": "boxes", "key": "keys"}
_COUNT = (
    "how many {plural} are there?",
    "how many {plural}?",
    "count the {plural}.",
    "what is the number of {plural}?",
)
_COLOR = ("what color is the {type}?", "which color does the {type} have?", "the {type} is of what color?")
_PRESENT = ("is there a {object}?", "do you see a {object}?", "does the room have a {object}?")
_MENTION = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(TYPES)})\b")
# One room in eight is kept for evaluation, chosen by a checksum.
_HELD_OUT_SHARE = 8
_OBJECTS = (2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Room:
    """A picture, uint8 [64, 64, 3], and its objects in raster order, (color, type) each."""

    image: np.ndarray
    objects: tuple[tuple[str, str], ...]

    def caption(self) -> str:
        return ", ".join(f"a {color} {kind}" for color, kind in self.objects)


def caption_episodes(count: int, seed: int) -> Iterator[Episode]:
    """``count`` documents (`CAPTION_SPEC`); ``metadata["objects"]`` lists "color type" in raster order."""
    rng = np.random.default_rng([seed, 0])
    rooms = _rooms(rng, held_out=seed >= EVALUATION_SEED)
    for index in range(count):
        room = next(rooms)
        yield _document(room, index, {"text": room.caption()}, {})


def question_episodes(count: int, seed: int) -> Iterator[Episode]:
    """``count`` documents (`QUESTION_SPEC`); ``metadata["question_kind"]`` is count, color or present."""
    rng = np.random.default_rng([seed, 1])
    rooms = _rooms(rng, held_out=seed >= EVALUATION_SEED)
    for index in range(count):
        room = next(rooms)
        kind, question, answer = _ask(room, rng)
        yield _document(room, index, {"question": question, "answer": answer}, {"question_kind": kind})


def object_set(text: str) -> collections.Counter[str]:
    """The multiset of objects ("red ball") that a text mentions, in any order and wording."""
    return collections.Counter(" ".join(match) for match in _MENTION.findall(text.lower()))


def object_f1(predicted: str, truth: str) -> float:
    """Harmonic mean of precision and recall between the multisets of objects of two texts; 1 if both are empty."""
    found, wanted = object_set(predicted), object_set(truth)
    total = found.total() + wanted.total()
    return 2 * (found & wanted).total() / total if total else 1.0


def _document(room: Room, index: int, texts: dict[str, str], metadata: dict[str, Any]) -> Episode:
    observations: dict[str, Any] = {"image": room.image[None], **{name: [text] for name, text in texts.items()}}
    objects = [f"{color} {kind}" for color, kind in room.objects]
    about = {"episode_id": f"{index:06d}", "objects": objects, **metadata}
    return Episode(observations, {}, np.zeros(1, np.float32), metadata=about)


def _rooms(rng: np.random.Generator, held_out: bool) -> Iterator[Room]:
    """Endless rooms of two to four objects; MiniGrid places objects and agent at random."""
    levels = import_package("minigrid.envs.babyai.goto", "babyai")
    simulators = [levels.GoToLocal(room_size=CELLS + 2, num_dists=count) for count in _OBJECTS]
    while True:
        simulator = simulators[rng.integers(len(simulators))]
        with contextlib.redirect_stdout(io.StringIO()):  # MiniGrid prints a line for every layout that it rejects.
            simulator.reset(seed=int(rng.integers(2**31)))
        room = _read(simulator)
        # The fingerprint is the objects' layout: a room seen in training is not asked about with the agent elsewhere.
        layout = simulator.grid.encode().tobytes()
        if (zlib.crc32(layout) % _HELD_OUT_SHARE == 0) == held_out:
            yield room


def _read(simulator: Any) -> Room:
    cells = [simulator.grid.get(column, row) for row in range(1, CELLS + 1) for column in range(1, CELLS + 1)]
    picture = simulator.get_frame(highlight=False, tile_size=TILE)[TILE:-TILE, TILE:-TILE]
    return Room(np.ascontiguousarray(picture), tuple((cell.color, cell.type) for cell in cells if cell is not None))


def _ask(room: Room, rng: np.random.Generator) -> tuple[str, str, str]:
    """Kind, question and answer; "no" and "yes" are equally frequent."""
    counts = collections.Counter(kind for _, kind in room.objects)
    single = [(color, kind) for color, kind in room.objects if counts[kind] == 1]
    kinds = ["count", "present", *(["color"] if single else [])]
    asked = kinds[rng.integers(len(kinds))]
    if asked == "count":
        kind = TYPES[rng.integers(len(TYPES))]
        return asked, _phrase(_COUNT, rng, plural=_PLURALS[kind]), str(counts[kind])
    if asked == "color":
        color, kind = single[rng.integers(len(single))]
        return asked, _phrase(_COLOR, rng, type=kind), color
    absent = [(color, kind) for color in COLORS for kind in TYPES if (color, kind) not in room.objects]
    present = bool(rng.integers(2))
    candidates = room.objects if present else absent
    return (
        asked,
        _phrase(_PRESENT, rng, object=" ".join(candidates[rng.integers(len(candidates))])),
        "yes" if present else "no",
    )


def _phrase(templates: tuple[str, ...], rng: np.random.Generator, **words: str) -> str:
    return templates[rng.integers(len(templates))].format(**words)
