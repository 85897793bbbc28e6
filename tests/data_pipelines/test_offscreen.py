"""Pictures with OpenGL: what they show, and what a machine without it is told."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gato.data_pipelines.environments.offscreen import OffscreenRenderer, RenderingError
from gato.data_pipelines.environments.registry import get_task


@pytest.fixture(scope="module", autouse=True)
def _opengl() -> None:
    try:
        OffscreenRenderer(16).close()
    except RenderingError:
        pytest.skip("this machine has no OpenGL without a display")


def test_two_environments_draw_side_by_side_and_the_image_follows_the_state():
    reach, swing = (get_task(f"dm_control-pixels/{name}").make() for name in ("reacher-easy", "cartpole-swingup"))
    first, other = reach.reset(1)["image"], swing.reset(1)["image"]
    assert first.shape == other.shape == (128, 128, 3)
    for image in (first, other):
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    assert np.abs(first.astype(int) - other).mean() > 5
    for _ in range(10):
        moved, *_ = reach.step({"action": np.ones(2, np.float32)})
    assert not np.array_equal(moved["image"], first)
    np.testing.assert_array_equal(reach.reset(1)["image"], first)
    reach.close()
    np.testing.assert_array_equal(swing.reset(1)["image"], other)
    swing.close()


def test_the_image_is_the_right_way_up():
    """The cart-pole's scene: sky above, floor below; the pole of the balancing task stands above the cart."""
    environment = get_task("dm_control-pixels/cartpole-balance").make()
    image = environment.reset(0)["image"].astype(int)
    upper, lower = image[20:60, 40:88], image[80:120, 40:88]
    assert upper.std() > lower.std(), "the pole is in the upper half"
    environment.close()


def test_an_image_is_drawn_in_the_same_way_whatever_was_imported_first():
    state, pixels = get_task("dm_control/hopper-stand").make(), get_task("dm_control-pixels/hopper-stand").make()
    state.reset(3)
    assert pixels.reset(3)["image"].any()
    pixels.close()


def test_without_opengl_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for backend in ("egl", "osmesa"):
        monkeypatch.setitem(sys.modules, f"mujoco.{backend}", None)
    with pytest.raises(RenderingError, match=r"egl: .*osmesa: .*apt install libegl1") as caught:
        get_task("dm_control-pixels/reacher-easy").make()
    assert "\n" not in str(caught.value)
