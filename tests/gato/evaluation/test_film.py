from __future__ import annotations

import numpy as np
import pytest

from gato.evaluation.film import MAX_FRAMES, Film


def test_frames_of_another_size_are_left_out():
    film = Film()
    for size in (4, 8, 4):
        film.add(np.zeros((size, size, 3), np.uint8))
    assert film.frames().shape == (2, 4, 4, 3)


@pytest.mark.parametrize("steps", [5, MAX_FRAMES, MAX_FRAMES + 1, 1000])
def test_a_long_film_keeps_evenly_spaced_frames(steps):
    film = Film()
    for step in range(steps):
        film.add(np.array([[[step // 256, step % 256, 0]]], np.uint8))
    shown = film.frames()[:, 0, 0, :2].astype(int) @ [256, 1]
    assert len(shown) <= MAX_FRAMES
    assert len(shown) >= min(steps, MAX_FRAMES // 2)
    assert len(set(np.diff(shown).tolist())) <= 1
    assert shown[0] == 0
