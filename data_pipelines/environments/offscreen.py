"""Pictures of MuJoCo scenes with OpenGL, for observations; `drawing` makes the ones that people look at, without it.

OpenGL comes from EGL (a GPU, or Mesa's software) or from OSMesa (software), whichever the machine has. Shadows,
reflections and multisampling are off, in training as in evaluation: on a CPU they cost more than all the rest.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from gato.data_pipelines.environments.base import import_package
from gato.tokenizers.errors import GatoError

_BACKENDS = ("egl", "osmesa")


class RenderingError(GatoError):
    """The machine has no OpenGL that works without a display; the message says what to install."""


class OffscreenRenderer:
    """Draws square pictures of one model after another.

    Args:
      size: side of a picture in pixels.
      camera: name or index of the model's camera to look through.

    Raises:
      RenderingError: neither EGL nor OSMesa works here.
    """

    def __init__(self, size: int, camera: str | int = 0) -> None:
        self._mujoco = import_package("mujoco", "dm_control")
        self._size, self._camera_name = size, camera
        self._gl = _context(size)
        self._model: Any = None
        self._context: Any = None

    def draw(self, model: Any, data: Any) -> np.ndarray:
        """The scene as uint8 [size, size, 3]; ``model`` and ``data`` are MuJoCo's own objects."""
        self._gl.make_current()
        if model is not self._model:
            self._load(model)
        mujoco = self._mujoco
        for terrain in range(model.nhfield):  # drawn anew for every episode
            mujoco.mjr_uploadHField(model, self._context, terrain)
        mujoco.mjv_updateScene(
            model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        picture = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._rectangle, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Releases what OpenGL holds."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._context = None
        self._gl.free()

    def _load(self, model: Any) -> None:
        """Meshes and textures of another model."""
        mujoco = self._mujoco
        if self._context is not None:
            self._context.free()
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = self._size
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        name = self._camera_name
        self._camera.fixedcamid = model.camera(name).id if isinstance(name, str) else name
        self._rectangle = mujoco.MjrRect(0, 0, self._size, self._size)
        self._model = model


def _context(size: int) -> Any:
    """A current OpenGL context. MUJOCO_GL=egl or MUJOCO_GL=osmesa chooses; otherwise the first that works."""
    chosen = os.environ.get("MUJOCO_GL", "")
    platform = os.environ.get("PYOPENGL_PLATFORM")
    reasons = []
    for backend in (chosen,) if chosen in _BACKENDS else _BACKENDS:
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
            context.make_current()
            return context
        except Exception as error:  # PyOpenGL fails in many ways: a missing library, a missing symbol, no device
            reasons.append(f"{backend}: {' '.join(str(error).split())[:80]}")
            if platform is None:
                os.environ.pop("PYOPENGL_PLATFORM", None)  # the attempt has set it
    raise RenderingError(
        f"pixels need OpenGL without a display, which this machine does not give ({'; '.join(reasons)}); on Debian or "
        "Ubuntu: apt install libegl1 libegl-mesa0 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa"
    )
