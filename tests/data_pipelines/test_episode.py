"""What is refused before it gets anywhere: an episode that is not what its spec says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gato.data_pipelines import jpeg
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec, check_episode, mistakes
from gato.tokenizers.errors import SpecError

SPEC = EpisodeSpec.of(
    {
        "camera": LeafSpec("image", (16, 24, 3)),
        "joints": LeafSpec("continuous", (2,)),
        "order": LeafSpec("text"),
    },
    LeafSpec("discrete", values=4),
)


def episode() -> Episode:
    observations = {
        "camera": np.zeros((5, 16, 24, 3), np.uint8),
        "joints": np.zeros((5, 2), np.float32),
        "order": ["go"] * 5,
    }
    return Episode(observations, {"action": np.arange(5) % 4}, np.zeros(5, np.float32))


def test_what_matches_passes():
    check_episode(episode(), SPEC, "here")
    files = [jpeg.encode(np.zeros((16, 24, 3), np.uint8))] * 5
    check_episode(
        dataclasses.replace(episode(), observations={**episode().observations, "camera": files}), SPEC, "here"
    )


WRONG = {
    "float images": ("camera", np.zeros((5, 16, 24, 3), np.float32), "dtype float32, images are uint8"),
    "wide images": ("camera", np.zeros((5, 16, 24, 3), np.uint16), "dtype uint16, images are uint8"),
    "grey images": ("camera", np.zeros((5, 16, 24, 1), np.uint8), r"shape \(16, 24, 1\) a step, the spec says"),
    "small files": ("camera", [jpeg.encode(np.zeros((8, 8, 3), np.uint8))] * 5, "step 0: an image of 8x8, the spec"),
    "no files": ("camera", [b"x"] * 5, r"step 0: no JPEG file \(1 bytes\)"),
    "infinity": ("joints", np.array([[0, 0], [0, 0], [0, np.inf], [0, 0], [0, 0]]), "step 2: NaN or infinity"),
    "numbers": ("order", [1, 2, 3, 4, 5], "step 0: int instead of a string"),
    "half a letter": ("order", ["go", "go", "\ud800", "go", "go"], "step 2: text that is not UTF-8"),
    "a step less": ("joints", np.zeros((4, 2)), "4 steps, but the episode has 5"),
    "fractions": ("action", np.zeros(5), "dtype float64, discrete values are integers"),
    "a strange action": ("action", np.array([0, 1, 2, 3, 4]), r"step 4: value 4 outside 0\.\.3"),
    "a negative action": ("action", np.array([0, -1, 2, 3, 3]), r"step 1: value -1 outside 0\.\.3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_leaf_that_is_wrong_is_named_and_hides_no_other(case):
    name, values, message = WRONG[case]
    group = "actions" if name == "action" else "observations"
    made = episode()
    setattr(made, group, {**getattr(made, group), name: values})
    with pytest.raises(SpecError, match=rf"^here: {group}\.{name}: {message}"):
        check_episode(made, SPEC, "here")
    made.rewards[3] = np.nan
    (rewards, leaf) = mistakes(made, SPEC)
    assert rewards == "rewards: NaN or infinity at step 3"
    assert leaf.startswith(f"{group}.{name}: ")


def test_leaves_that_are_missing_or_too_many_are_named():
    made = episode()
    made.observations = {"camera": made.observations["camera"][:4], "joint": np.zeros((5, 2)), "order": ["go"] * 5}
    assert list(mistakes(made, SPEC)) == [
        "observations: joints missing; joint not in the spec",
        "observations.camera: 4 steps, but the episode has 5",
    ]
    empty = Episode({}, {}, np.zeros(0, np.float32))
    assert list(mistakes(empty, SPEC)) == ["the episode has no timestep"]
