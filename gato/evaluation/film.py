"""The film of an episode."""

from __future__ import annotations

import numpy as np

MAX_FRAMES = 100


class Film:
    """At most `MAX_FRAMES` evenly spaced frames of an episode of unknown length: when full, every second one goes.

    A film has one size: that of the first frame. Frames of another one are left out.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._every, self._seen = 1, 0

    def add(self, frame: np.ndarray) -> None:
        """Takes in the next frame, uint8 [H, W, 3]."""
        if self._kept and frame.shape != self._kept[0].shape:
            return
        if self._seen % self._every == 0:
            if len(self._kept) == MAX_FRAMES:
                self._kept = self._kept[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self._kept.append(frame)
        self._seen += 1

    def frames(self) -> np.ndarray | None:
        """uint8 [n, H, W, 3] with n up to `MAX_FRAMES`; None if there was no frame."""
        return np.stack(self._kept) if self._kept else None
