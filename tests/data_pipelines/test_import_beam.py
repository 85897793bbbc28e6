"""The same import by Apache Beam's local runner; Beam has an environment of its own, see `import_beam`."""

from __future__ import annotations

import numpy as np
import pytest

from gato.data_pipelines import import_source as module
from gato.data_pipelines.import_beam import import_with_beam, main
from gato.data_pipelines.import_source import import_source
from gato.data_pipelines.readers.registry import SourceReference
from gato.data_pipelines.store import Store
from gato.tokenizers.errors import GatoError

pytest.importorskip("apache_beam", reason="an environment of its own: make test-beam")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 2_000)
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(20):
        values = {"observations/x": rng.normal(size=(9, 5)), "actions": rng.integers(3, size=9)}
        np.savez(folder / f"{number:02d}.npz", **values)
    return folder


VALUES = (("actions.action", 3),)


def test_beam_makes_the_same_store(folder, tmp_path):
    reference = SourceReference(str(folder), values=VALUES)
    done = import_with_beam(reference, tmp_path / "beam")
    assert done.episodes == 20
    import_source(reference, tmp_path / "plain", progress=False)
    assert Store(tmp_path / "beam").fingerprint == Store(tmp_path / "plain").fingerprint
    assert import_with_beam(reference, tmp_path / "beam").already_there


def test_a_bad_episode_is_named_and_the_same_call_goes_on(folder, tmp_path):
    """As `import_source` says it, not as the runner would; the other parts are written meanwhile, and kept."""
    np.savez(folder / "07.npz", **{"observations/x": np.full((9, 5), np.nan), "actions": np.zeros(9, int)})
    reference = SourceReference(str(folder), values=VALUES)
    messages = set()
    for make in (import_with_beam, import_with_beam, import_source):
        with pytest.raises(GatoError) as error:
            make(reference, tmp_path / ("plain" if make is import_source else "beam"))
        messages.add(str(error.value))
    assert len(messages) == 1
    assert "07.npz" in messages.pop()
    assert not (tmp_path / "beam").exists()
    parts = sorted((tmp_path / ".beam.import").glob("part-?????/data-00000.array_record"))
    written = {path.parent.name: path.stat().st_mtime_ns for path in parts}
    assert set(written) == {"part-00000", "part-00002"}
    done = import_with_beam(reference, tmp_path / "beam", "skip")
    assert done.episodes == 19
    assert [number for number, _ in done.skipped] == [7]
    kept = {name: (tmp_path / "beam" / name / "data-00000.array_record").stat().st_mtime_ns for name in written}
    assert kept == written
    import_source(reference, tmp_path / "plain", bad="skip", progress=False)
    assert Store(tmp_path / "beam").fingerprint == Store(tmp_path / "plain").fingerprint
    places = (tmp_path / "beam", tmp_path / "plain")
    names = [sorted(str(file.relative_to(place)) for file in place.rglob("*")) for place in places]
    assert names[0] == names[1]


def test_its_command_line_says_all_that_ours_says(folder, tmp_path, capsys):
    (folder / "07.npz").write_bytes(b"PK")
    words = ["--values", "actions.action=3", "--name", "lab/mine", "--bad", "skip"]
    main([str(folder), str(tmp_path / "beam"), *words, "--", "--runner=DirectRunner"])
    out = capsys.readouterr().out
    assert "imported: 19 episodes, 171 timesteps" in out
    assert "skipped 1 bad episode or file " in out
    reference = SourceReference(str(folder), values=VALUES, name="lab/mine")
    import_source(reference, tmp_path / "plain", bad="skip", progress=False)
    assert Store(tmp_path / "beam").name == "lab/mine"
    assert Store(tmp_path / "beam").fingerprint == Store(tmp_path / "plain").fingerprint
