"""The same episodes through tf.data, for benchmarks/data_peers.py: what a TensorFlow input pipeline would cost.

Files of TFRecords, as many timesteps in a record as our store has, uncompressed; read in their order, decoded and
tokenized with TensorFlow's operations, and cut into rows of whole timesteps. What tf.data leaves out beside our loader:
a global shuffle, mixing, packing of what is left of a row, and a resume that does not read everything again.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.data_pipelines.episode import LeafSpec
from gato.data_pipelines.store import Store
from gato.tokenizers.continuous import BINS, MU, M
from gato.tokenizers.image import PATCH


def write_records(store: Store, leaf: LeafSpec, as_jpeg: bool, file: Path) -> None:
    """All episodes of a store with the leaves ``seen`` and ``action`` as one file of TFRecords."""
    import tensorflow as tf

    steps = 8 if leaf.modality == "image" else 32
    with tf.io.TFRecordWriter(str(file)) as writer:
        for number in range(len(store)):
            episode = store.episode(number)
            for start in range(0, len(episode), steps):
                seen = np.asarray(episode.observations["seen"][start : start + steps])
                action = np.asarray(episode.actions["action"][start : start + steps], np.float32)
                values = [_jpeg(image) for image in seen] if as_jpeg else [seen.tobytes()]
                feature = {
                    "seen": tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
                    "action": tf.train.Feature(bytes_list=tf.train.BytesList(value=[action.tobytes()])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def batches(file: Path, leaf: LeafSpec, as_jpeg: bool, action_size: int, rows: int, length: int) -> Callable[[], Any]:
    """A function that makes the next batch: ids [rows, length] and, of images, patches uint8 [rows, n, 16, 16, 3].

    One thread does everything, as everything else here is measured.
    """
    import tensorflow as tf

    image = leaf.modality == "image"
    height, width = leaf.shape[:2] if image else (0, 0)
    seen_tokens = (height // PATCH) * (width // PATCH) if image else leaf.size
    per_step = seen_tokens + 1 + action_size
    per_row = length // per_step
    scale = 1 / math.log(M * MU + 1.0)

    def bins(x: Any) -> Any:
        return tf.cast(tf.clip_by_value(tf.math.floor((x + 1.0) * (BINS / 2)), 0, BINS - 1), tf.int32)

    def tokens(record: Any) -> dict[str, Any]:
        kind = tf.io.VarLenFeature(tf.string) if as_jpeg else tf.io.FixedLenFeature([], tf.string)
        example = tf.io.parse_single_example(record, {"seen": kind, "action": tf.io.FixedLenFeature([], tf.string)})
        action = bins(tf.reshape(tf.io.decode_raw(example["action"], tf.float32), [-1, action_size])) + 32_000
        made = {}
        if image:
            if as_jpeg:
                encoded = tf.sparse.to_dense(example["seen"], default_value="")
                decode = lambda data: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_FAST")  # noqa: E731
                pixels = tf.map_fn(decode, encoded, fn_output_signature=tf.uint8)
            else:
                pixels = tf.io.decode_raw(example["seen"], tf.uint8)
            grid = tf.reshape(pixels, [-1, height // PATCH, PATCH, width // PATCH, PATCH, 3])
            made["patches"] = tf.reshape(tf.transpose(grid, [0, 1, 3, 2, 4, 5]), [-1, seen_tokens, PATCH, PATCH, 3])
            seen = tf.zeros([tf.shape(action)[0], seen_tokens], tf.int32)
        else:
            x = tf.reshape(tf.io.decode_raw(example["seen"], tf.float32), [-1, leaf.size])
            seen = bins(tf.sign(x) * tf.math.log(tf.abs(x) * MU + 1.0) * scale) + 32_000
        separator = tf.fill([tf.shape(action)[0], 1], 33_024)
        made["ids"] = tf.concat([seen, separator, action], 1)
        return made

    def row(made: dict[str, Any]) -> dict[str, Any]:
        made["ids"] = tf.pad(tf.reshape(made["ids"], [-1]), [[0, length - per_row * per_step]])
        if image:
            made["patches"] = tf.reshape(made["patches"], [-1, PATCH, PATCH, 3])
        return made

    data = tf.data.TFRecordDataset(str(file)).repeat().map(tokens).rebatch(per_row).map(row).batch(rows).prefetch(1)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    iterator = iter(data.with_options(options).as_numpy_iterator())
    return lambda: next(iterator)


def _jpeg(image: np.ndarray) -> bytes:
    """As our store keeps camera images: quality 95, 4:4:4."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
