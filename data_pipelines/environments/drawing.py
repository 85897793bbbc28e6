"""Pictures of MuJoCo scenes without OpenGL: every geom's silhouette through a camera of the model, far to near.

Good enough to see what a policy does; needs only numpy and Pillow, so it works on a bare server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_SPHERE, _CAPSULE, _ELLIPSOID, _CYLINDER, _BOX, _MESH = 2, 3, 4, 5, 6, 7  # mujoco.mjtGeom
_BACKGROUND = (226, 230, 235)
_OVERSAMPLE = 2
_NEAR = 0.01


def _directions(count: int) -> np.ndarray:
    """Nearly even unit vectors [count, 3] (Fibonacci sphere)."""
    k = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    return np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], -1)


class SceneDrawer:
    """Draws one model; build it once and call `draw` for every frame.

    Args:
      model: ``mujoco.MjModel`` (dm_control's wrapper works too).
      camera: name or index of the camera to look through; a model without cameras is seen from the place that MuJoCo
        proposes.
      size: side of the square picture in pixels.
      zoom: magnifies the middle of the picture.
    """

    def __init__(self, model: Any, camera: str | int = 0, size: int = 160, zoom: float = 1.0) -> None:
        self._model, self._size, self._zoom = model, size, zoom
        names = [_name(model, model.name_camadr[i]) for i in range(model.ncam)]
        self._camera = names.index(camera) if isinstance(camera, str) else camera
        self._sphere = _directions(48)
        rim = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        self._rim = np.stack([np.cos(rim), np.sin(rim), np.zeros_like(rim)], -1)
        around = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        self._outline = np.stack([np.cos(around), np.sin(around)], -1)
        shown = [geom for geom in range(model.ngeom) if model.geom_group[geom] < 3]
        self._clouds = {geom: cloud for geom in shown if (cloud := self._cloud(geom)) is not None}

    def draw(self, data: Any, markers: Iterable[tuple[np.ndarray, float, tuple[int, int, int]]] = ()) -> np.ndarray:
        """The scene in state ``data`` as uint8 [size, size, 3].

        Args:
          data: ``mujoco.MjData`` or dm_control's wrapper, after a forward step.
          markers: spheres (position, radius in m, colour) drawn over everything else, e.g. a goal.
        """
        side = self._size * _OVERSAMPLE
        picture = Image.new("RGB", (side, side), _BACKGROUND)
        canvas = ImageDraw.Draw(picture)
        clouds = []
        for geom, cloud in self._clouds.items():
            points = cloud @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            color = self._color(geom)
            if color is not None:
                clouds.append((points, color))
        shapes = [(*self._project(data, points, side), color) for points, color in clouds]
        shapes.sort(key=lambda shape: -shape[1].mean())
        for center, radius, color in markers:
            shapes.append((*self._project(data, np.asarray(center) + radius * self._sphere, side), color))
        for pixels, depth, color in shapes:
            if depth.min() > _NEAR:
                edge = tuple(int(channel * 0.6) for channel in color)
                canvas.polygon([tuple(point) for point in self._silhouette(pixels)], fill=color, outline=edge)
        return np.asarray(picture.resize((self._size, self._size), Image.Resampling.BOX))

    def _project(self, data: Any, points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """World points [n, 3] -> pixels [n, 2] and depth [n]; a MuJoCo camera looks along its -z axis."""
        if self._model.ncam:
            place, axes = data.cam_xpos[self._camera], data.cam_xmat[self._camera].reshape(3, 3)
            view = self._model.cam_fovy[self._camera]
        else:
            (place, axes), view = self._free_camera(), self._model.vis.global_.fovy
        local = (points - place) @ axes
        depth = -local[:, 2]
        scale = 0.5 * self._zoom * side / np.tan(np.deg2rad(view) / 2)
        safe = np.maximum(depth, _NEAR)[:, None]
        return np.array([1, -1]) * local[:, :2] * scale / safe + side / 2, depth

    def _free_camera(self) -> tuple[np.ndarray, np.ndarray]:
        """Place [3] and axes [3, 3] of MuJoCo's own camera when it opens a model: all of it, from above."""
        settings, extent = self._model.vis.global_, self._model.stat.extent
        azimuth, elevation = np.deg2rad(settings.azimuth), np.deg2rad(settings.elevation)
        level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        forward = np.cos(elevation) * level + [0, 0, np.sin(elevation)]
        right = np.array([level[1], -level[0], 0.0])
        return self._model.stat.center - 1.5 * extent * forward, np.stack(
            [right, np.cross(right, forward), -forward], 1
        )

    def _silhouette(self, pixels: np.ndarray) -> np.ndarray:
        """The convex outline: the extreme point in each direction around the circle."""
        return pixels[np.argmax(pixels @ self._outline.T, axis=0)]

    def _cloud(self, geom: int) -> np.ndarray | None:
        """Points [n, 3] in the geom's frame that span its shape; ``None`` for planes and height fields."""
        model = self._model
        kind, size = int(model.geom_type[geom]), np.asarray(model.geom_size[geom])
        if kind == _BOX:
            return size * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        if kind == _SPHERE:
            return size[0] * self._sphere
        if kind == _ELLIPSOID:
            return size * self._sphere
        if kind == _CAPSULE:
            cloud, end = size[0] * self._sphere, np.array([0, 0, size[1]])
            return np.concatenate([cloud + end, cloud - end])
        if kind == _CYLINDER:
            rim, end = size[0] * self._rim, np.array([0, 0, size[1]])
            return np.concatenate([rim + end, rim - end])
        if kind == _MESH:
            mesh = int(model.geom_dataid[geom])
            first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
            vertices = np.asarray(model.mesh_vert[first : first + count])
            return vertices[np.unique(np.argmax(vertices @ self._sphere.T, axis=0))]
        return None

    def _color(self, geom: int) -> tuple[int, int, int] | None:
        """The geom's colour, 0-255; ``None`` where it is (nearly) transparent."""
        material = int(self._model.geom_matid[geom])
        rgba = self._model.mat_rgba[material] if material >= 0 else self._model.geom_rgba[geom]
        if rgba[3] < 0.1:
            return None
        red, green, blue = (round(255 * min(1.0, float(channel))) for channel in rgba[:3])
        return red, green, blue


def _name(model: Any, address: int) -> str:
    """The zero-terminated name at ``address`` of the model's name table."""
    return bytes(model.names[address:]).split(b"\0", 1)[0].decode()
