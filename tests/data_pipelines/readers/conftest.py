"""Imports real files of each format, written in the tests with the format's own writer wherever it installs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Store]:
    """``imported(source, **settings of SourceReference)`` -> the store."""

    def run(source: Path | str, dest: str = "store", bad: Any = "fail", processes: int = 1, **settings: Any) -> Store:
        reference = SourceReference(str(source), **settings)
        return Store(import_source(reference, tmp_path / dest, bad=bad, processes=processes, progress=False).store)

    return run


@pytest.fixture
def described(tmp_path: Path) -> Callable[..., Path]:
    """``described(source, **fields)`` -> a file with a `DatasetSpec` of these fields."""

    def write(source: Path, **fields: Any) -> Path:
        words = ", ".join(f"{name}={value!r}" for name, value in {"source": str(source), **fields}.items())
        (tmp_path / "mine.py").write_text(
            f"from gato.data_pipelines.dataset import DatasetSpec\nMINE = DatasetSpec({words})\n"
        )
        return tmp_path / "mine.py"

    return write


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """``suite(kind, lengths, shards)`` -> a TFDS directory with episodes of the control suite of so many steps."""
    import tfds_files

    def write(kind: str = "tfrecord", lengths: Sequence[int] = (6,) * 5, shards: int = 2) -> Path:
        name, config, features = tfds_files.load("rlu_control_suite")
        rng = np.random.default_rng(1)
        examples = [tfds_files.fill(features, rng, steps) for steps in lengths]
        return tfds_files.write(tmp_path / kind, name, config, features, examples, kind, shards)

    return write


sys.path.insert(0, str(Path(__file__).parent))  # `tfds_files`: importlib mode does not put the folder on the path
