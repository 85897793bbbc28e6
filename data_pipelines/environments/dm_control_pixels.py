"""The DeepMind Control Suite from pixels, "dm_control-pixels/DOMAIN-TASK": one image of 128 x 128, 64 patches.

So many patches a timestep are what the Gato paper's token counts imply. The image is all that an agent sees, though
one image shows no velocities. It is drawn through the scene's first camera; needs OpenGL, see `offscreen`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from gato.data_pipelines.environments import dm_control
from gato.data_pipelines.environments.base import Observation, Task
from gato.data_pipelines.environments.dm_control import DMControlEnvironment
from gato.data_pipelines.environments.offscreen import OffscreenRenderer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

SIZE = 128


class PixelEnvironment(DMControlEnvironment):
    """A task of the suite whose observation is an image."""

    def __init__(self, simulator: Any, generator: np.random.RandomState, **options: Any) -> None:
        super().__init__(simulator, generator, **options)
        self._renderer = OffscreenRenderer(SIZE, self._camera)
        self.spec = EpisodeSpec({"image": LeafSpec("image", (SIZE, SIZE, 3))}, self.spec.actions)

    def close(self) -> None:
        self._renderer.close()
        super().close()

    def _leaves(self, timestep: Any) -> Observation:
        del timestep
        physics = self.simulator.physics
        return {"image": self._renderer.draw(physics.model.ptr, physics.data.ptr)}


def make_task(name: str) -> Task:
    """The task "dm_control-pixels/DOMAIN-TASK"."""
    return dm_control.suite_task(
        name, functools.partial(dm_control.suite_environment, name.partition("/")[2], PixelEnvironment)
    )


SUITE = dataclasses.replace(
    dm_control.SUITE,
    name="dm_control-pixels",
    description="DeepMind Control Suite from images; needs EGL or OSMesa",
    task_names=functools.partial(dm_control.names_in, "dm_control-pixels"),
    make_task=make_task,
)
