"""Captions and questions: true of the picture, reproducible, scored as multisets, held-out rooms apart."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest

pytest.importorskip("minigrid")

from minigrid.core.constants import COLORS
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Key

from gato.data_pipelines.environments.base import EVALUATION_SEED
from gato.data_pipelines.episode import check_episode
from gato.data_pipelines.sources import captions as sources_captions
from gato.data_pipelines.sources.captions import (
    CAPTION_SPEC,
    QUESTION_SPEC,
    caption_episodes,
    object_f1,
    object_set,
    question_episodes,
)


def tiles(image: np.ndarray) -> np.ndarray:
    """[4, 4, 16, 16, 3]."""
    return image.reshape(4, 16, 4, 16, 3).swapaxes(1, 2)


@pytest.fixture(scope="module")
def drawn():
    """What MiniGrid draws for each object: tile bytes -> name."""
    kinds = {"ball": Ball, "box": Box, "key": Key}
    return {
        Grid.render_tile(kinds[kind](color), tile_size=16).astype(np.uint8).tobytes(): f"{color} {kind}"
        for color in COLORS
        for kind in kinds
    }


@pytest.fixture(scope="module")
def captions():
    return list(caption_episodes(60, seed=0))


def test_captions_name_what_the_picture_shows_in_raster_order(captions, drawn):
    assert len(drawn) == 18
    lengths = set()
    for episode in captions:
        check_episode(episode, CAPTION_SPEC, "captions")
        pieces = tiles(episode.observations["image"][0]).reshape(16, 16, 16, 3)
        seen = [drawn[piece.tobytes()] for piece in pieces if piece.tobytes() in drawn]
        assert seen == episode.metadata["objects"]
        assert episode.observations["text"] == [", ".join(f"a {name}" for name in seen)]
        lengths.add(len(seen))
    assert lengths == {2, 3, 4}


def test_answers_are_true_and_every_kind_is_asked(drawn):
    kinds = collections.Counter()
    phrasings = set()
    for episode in question_episodes(200, seed=0):
        check_episode(episode, QUESTION_SPEC, "questions")
        (question,), (answer,) = episode.observations["question"], episode.observations["answer"]
        pieces = tiles(episode.observations["image"][0]).reshape(16, 16, 16, 3)
        seen = [drawn[piece.tobytes()] for piece in pieces if piece.tobytes() in drawn]
        asked = episode.metadata["question_kind"]
        words = question.rstrip("?.").split()
        about = [w.removesuffix("es") if w == "boxes" else w.removesuffix("s") for w in words]
        kind = next(word for word in about if word in ("ball", "box", "key"))
        if asked == "count":
            assert answer == str(sum(name.endswith(kind) for name in seen))
        elif asked == "color":
            assert [f"{answer} {kind}"] == [name for name in seen if name.endswith(kind)]
        else:
            assert answer == ("yes" if any(name in question for name in seen) else "no")
        kinds[asked, answer] += 1
        phrasings.add((asked, words[0]))
    assert {asked for asked, _ in kinds} == {"count", "color", "present"}
    assert min(kinds["present", "yes"], kinds["present", "no"]) > 15
    assert len(phrasings) >= 8


def test_the_same_seed_gives_the_same_documents_and_a_longer_list_extends_it(captions):
    for one, other in zip(captions, itertools.islice(caption_episodes(1000, seed=0), 10), strict=False):
        np.testing.assert_array_equal(one.observations["image"], other.observations["image"])
        assert one.observations["text"] == other.observations["text"]
    texts = [episode.observations["text"][0] for episode in captions]
    assert [episode.observations["text"][0] for episode in caption_episodes(60, seed=1)] != texts
    assert len(set(texts)) > 50


def test_held_out_rooms_are_none_of_the_others(monkeypatch, drawn):
    """With one object there are only 16 x 18 rooms, whatever the agent's place: chance would repeat most of them."""
    monkeypatch.setattr(sources_captions, "_OBJECTS", (1,))

    def layouts(episodes):
        pictures = [tiles(episode.observations["image"][0]).reshape(16, 16, 16, 3) for episode in episodes]
        return {tuple(drawn.get(piece.tobytes()) for piece in picture) for picture in pictures}

    held_out, others = layouts(caption_episodes(100, seed=EVALUATION_SEED)), layouts(caption_episodes(400, seed=0))
    assert len(held_out) > 15
    assert len(others) > 120
    assert not held_out & others


def test_nothing_is_printed(capfd):
    list(caption_episodes(60, seed=3))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("predicted", "truth", "score"),
    [
        ("a red ball, a green key", "a green key, a red ball", 1.0),
        ("a red ball", "a red ball, a red ball", 2 / 3),
        ("a red ball, a red ball", "a red ball", 2 / 3),
        ("there is a grey box in front of a blue ball.", "a grey box, a purple ball", 0.5),
        ("a red", "a red ball", 0.0),
        ("", "", 1.0),
        ("nonsense", "a red ball", 0.0),
    ],
)
def test_object_f1(predicted, truth, score):
    assert object_f1(predicted, truth) == pytest.approx(score)


def test_object_set_counts():
    assert object_set("A red ball, a red ball and one GREY key") == {"red ball": 2, "grey key": 1}


def test_captions_of_other_rooms_score_low(captions):
    texts = [episode.observations["text"][0] for episode in captions]
    assert np.mean([object_f1(one, other) for one, other in itertools.pairwise(texts)]) < 0.35
