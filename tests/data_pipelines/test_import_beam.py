"""The same import by Apache Beam's local runner; Beam has an environment of its own, see `import_beam`."""

from __future__ import annotations

import numpy as np
import pytest

from gato.data_pipelines import import_source as module
from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store

pytest.importorskip("apache_beam", reason="an environment of its own: make test-beam")


def test_beam_makes_the_same_store(tmp_path, monkeypatch):
    from gato.data_pipelines.import_beam import import_with_beam

    monkeypatch.setattr(module, "PART_BYTES", 2_000)
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(20):
        np.savez(
            folder / f"{number:02d}.npz", **{"observations/x": rng.normal(size=(9, 5)), "actions": np.zeros((9, 2))}
        )
    reference = SourceReference(str(folder))
    done = import_with_beam(reference, tmp_path / "beam")
    assert done.episodes == 20
    import_source(reference, tmp_path / "plain", progress=False)
    assert Store(tmp_path / "beam").fingerprint == Store(tmp_path / "plain").fingerprint
    assert import_with_beam(reference, tmp_path / "beam").already_there
