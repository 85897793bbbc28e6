"""Prepared TFDS directories of any features, filled with random values; made with tfds itself where it can."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FEATURES = Path(__file__).parent / "tfds_features"


def fill(feature: Any, rng: np.random.Generator, steps: int = 4) -> Any:
    """A random value of a feature, in the form that `serialize_example` takes."""
    from tensorflow_datasets.core import features as f

    kind = type(feature).__name__
    if kind == "Dataset":
        return [step(feature.feature, rng, number, steps) for number in range(steps)]
    if kind == "Sequence":  # before the next: it passes `items` on to what is in it
        return [fill(feature.feature, rng, steps) for _ in range(2)]
    if hasattr(feature, "items"):
        return {key: fill(child, rng, steps) for key, child in feature.items()}
    if kind == "Image":
        return picture(feature, rng)
    if kind == "BBoxFeature":
        return f.BBox(0.1, 0.2, 0.5, 0.9)
    if kind == "ClassLabel":
        return int(rng.integers(feature.num_classes))
    if kind == "Text" or feature.np_dtype in (object, np.object_):
        return f"words {rng.integers(1000)} – ü"
    dtype = np.dtype(feature.np_dtype)
    shape = tuple(3 if n is None else n for n in feature.shape)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(9, size=shape).astype(dtype)
    return rng.uniform(-1, 1, shape).astype(dtype)


def step(features: Any, rng: np.random.Generator, number: int, steps: int) -> dict[str, Any]:
    last = number == steps - 1
    value = {key: fill(child, rng) for key, child in features.items()}
    marks = {"is_first": number == 0, "is_last": last, "is_terminal": last}
    return value | {key: mark for key, mark in marks.items() if key in value}


def picture(feature: Any, rng: np.random.Generator) -> bytes:
    height, width, channels = (n or default for n, default in zip(feature.shape, (40, 50, 3), strict=True))
    pixels = rng.integers(256, size=(height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels).resize((width, height))
    buffer = io.BytesIO()
    image.save(buffer, (feature._encoding_format or "png").upper())
    return buffer.getvalue()


def episodes(observation: dict[str, Any], action: Any = np.float32) -> Any:
    """Features of episodes that have these leaves and nothing else."""
    from tensorflow_datasets.core import features as f

    marks = dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_)
    return f.FeaturesDict({"steps": f.Dataset({"observation": observation, "action": action, **marks})})


def name_labels(feature: Any) -> None:
    """Gives the classes of all labels names, as published data sets have them beside ``features.json``."""
    if type(feature).__name__ == "Sequence":
        name_labels(feature.feature)
    elif hasattr(feature, "items"):
        for child in feature.values():
            name_labels(child)
    elif type(feature).__name__ == "ClassLabel":
        feature.names = [f"class {k} of {feature.num_classes}" for k in range(feature.num_classes)]


def load(name: str) -> tuple[str, str | None, Any]:
    """(name, config, features) of a published data set."""
    from tensorflow_datasets.core import features as f

    data = json.loads((FEATURES / f"{name}.json").read_text())
    return data["name"], data["config"], f.FeatureConnector.from_json(data["features"])


def write(
    folder: Path,
    name: str,
    config: str | None,
    features: Any,
    examples: list[Any],
    kind: str = "array_record",
    shards: int = 2,
) -> Path:
    """The directory; the examples are spread over the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    features.save_config(str(folder))
    parts = [examples[k * len(examples) // shards : (k + 1) * len(examples) // shards] for k in range(shards)]
    for number, part in enumerate(parts):
        file = folder / f"{name}-train.{kind}-{number:05d}-of-{shards:05d}"
        write_records(file, [features.serialize_example(example) for example in part], kind)
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": kind,
        "splits": [{"name": "train", "shardLengths": [str(len(part)) for part in parts], "numBytes": "1"}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info | ({"configName": config} if config else {})))
    return folder


def write_record(folder: Path, name: str, config: str | None, features: Any, record: bytes = b"x") -> Path:
    """A directory of one record that tfds would not write."""
    write(folder, name, config, features, [], shards=1)
    about = json.loads((folder / "dataset_info.json").read_text())
    about["splits"][0]["shardLengths"] = ["1"]
    (folder / "dataset_info.json").write_text(json.dumps(about))
    write_records(folder / f"{name}-train.array_record-00000-of-00001", [record], "array_record")
    return folder


def write_records(file: Path, records: list[bytes], kind: str) -> None:
    if kind == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(file), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    file.write_bytes(b"".join(map(framed, records)))


def framed(record: bytes) -> bytes:
    """A record of a TFRecord file."""
    import google_crc32c

    def masked(data: bytes) -> int:
        crc = google_crc32c.value(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked(length)) + record + struct.pack("<I", masked(record))
