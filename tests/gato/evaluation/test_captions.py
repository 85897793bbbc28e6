from __future__ import annotations

import numpy as np
import pytest

from gato.evaluation.captions import derangement, evaluate_captions, evaluate_questions

TEXTS = ["a red ball", "a green key, a blue box", "a grey box", "a purple key, a red key", "a yellow ball"]
IMAGES = np.stack([np.full((16, 16, 3), i, np.uint8) for i in range(len(TEXTS))])


def see(images, questions):
    return [TEXTS[image[0, 0, 0]] for image in images]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_derangement_moves_everything_and_loses_nothing(count):
    for seed in range(5):
        order = derangement(count, seed)
        assert sorted(order.tolist()) == list(range(count))
        assert (order != np.arange(count)).all()
    with pytest.raises(ValueError, match="two"):
        derangement(1, 0)


def test_who_looks_is_right_and_falls_when_the_images_are_shuffled():
    scores = evaluate_captions(see, IMAGES, TEXTS)
    assert scores["object_f1"] == scores["exact"] == scores["low"] == 1.0
    assert scores["shuffled_object_f1"] < 0.4
    assert scores["samples"][1] == {"index": 1, "reference": TEXTS[1], "text": TEXTS[1]}


def test_who_does_not_look_gains_nothing_from_the_right_images():
    scores = evaluate_captions(lambda images, questions: ["a red ball"] * len(images), IMAGES, TEXTS)
    assert scores["object_f1"] == scores["shuffled_object_f1"] == pytest.approx(0.2)


def test_answers_are_compared_as_words_and_see_their_questions():
    questions = [f"what is {i}?" for i in range(len(TEXTS))]

    def answer(images, asked):
        assert asked == questions
        return [f" {TEXTS[image[0, 0, 0]].upper()}" for image in images]

    scores = evaluate_questions(answer, IMAGES, questions, TEXTS)
    assert scores["accuracy"] == 1.0
    assert scores["shuffled_accuracy"] == 0.0
    assert scores["samples"][0]["question"] == questions[0]
