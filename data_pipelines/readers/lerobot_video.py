"""Frames of a stretch of a video, exactly as many as an episode has steps, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.extras import require
from gato.data_pipelines.store import first_line


def frames(file: Path, start: float, count: int, fps: float, where: str) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of the ``count`` frames from ``start`` seconds on.

    Raises:
      SourceError: the file is damaged, or has no frame where one must be (to half a frame's time).
    """
    av = require("av", "videos")
    found = 0
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            # A damaged frame would else be filled up from its neighbours, and pass.
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
            if start > 0:
                # To the key frame before: what lies between is decoded and passed over.
                container.seek(int(start / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                time = float(frame.time if frame.time is not None else 0.0)
                if frame.is_corrupt:  # before the start, too: the frames after it are made from it
                    raise SourceError(f"{where}: {file}: the frame at {time:.3f} s is damaged; copy it again")
                if time < start - 0.5 / fps:
                    continue
                if abs(time - (start + found / fps)) > 0.5 / fps:
                    expected = start + found / fps
                    raise SourceError(f"{where}: {file}: a frame at {time:.3f} s where one at {expected:.3f} s must be")
                yield frame.to_ndarray(format="rgb24")
                found += 1
                if found == count:
                    return
    except SourceError:
        raise
    except Exception as error:  # av raises its own kinds, OSError and ValueError
        raise SourceError(f"{where}: {file}: cannot be decoded: {first_line(error)}") from error
    raise SourceError(f"{where}: {file}: {found} frames from {start:.3f} s on, but the episode has {count} steps")
