"""What a user says about a source: his file, an installed package, a transform; and how a format is found out."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gato.data_pipelines import jpeg
from gato.data_pipelines.errors import SourceError, StoreError
from gato.data_pipelines.readers.formats import detect
from gato.data_pipelines.readers.registry import SourceReference, open_source
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import LeafSpec

HEAD = """
import dataclasses
import numpy as np
from gato.data_pipelines.dataset import DatasetSpec
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "mine"
    path.mkdir()
    for number in range(4):
        arrays = {"observations/x": rng.normal(size=(5, 3)), "actions": rng.uniform(-1, 1, (5, 2))}
        np.savez(path / f"{number}.npz", **arrays, success=np.array(number != 1))
    return path


def transformed(tmp_path: Path, body: str, fields: str = "") -> str:
    """A file whose DatasetSpec has this body of a transform."""
    body = "".join(f"    {line}\n" for line in body.splitlines())
    (tmp_path / "robot.py").write_text(
        f"{HEAD}\ndef transform(episode):\n{body}\nROBOT = DatasetSpec(transform=transform, {fields})\n"
    )
    return f"{tmp_path}/robot.py:ROBOT"


def test_another_spec_of_the_same_data_is_another_import(folder, tmp_path, imported):
    (tmp_path / "robot.py").write_text(
        f"{HEAD}\nA = DatasetSpec(source={str(folder)!r})\n"
        f"B = DatasetSpec(source={str(folder)!r}, leaves={{'observations.x': LeafSpec('continuous', (3,), -9, 9)}})\n"
        f"C = DatasetSpec(source={str(folder)!r}, metadata={{'task': 'lab/other'}})\n"
    )
    imported(f"{tmp_path}/robot.py:A")
    for name in "BC":
        with pytest.raises(StoreError, match=r"holds another import \(other format or options\); delete it"):
            imported(f"{tmp_path}/robot.py:{name}")
    with pytest.raises(StoreError, match=r"holds another import \(other name\)"):
        imported(f"{tmp_path}/robot.py:A", name="lab/named")
    assert imported(f"{tmp_path}/robot.py:A").name == "mine"


def test_an_installed_package_offers_its_data(folder, tmp_path, imported, monkeypatch):
    """A real distribution with an entry point; a transform that changed is another import."""
    site = tmp_path / "site"
    about = site / "acme_robots-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-robots\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[gato.datasets]\nacme-cups = acme_robots.data:CUPS\nbad = acme_robots:X\n")
    package = site / "acme_robots"
    package.mkdir()
    (package / "__init__.py").write_text("X = 3\n")
    text = f"""{HEAD}
def transform(episode):
    return dataclasses.replace(episode, rewards=episode.rewards + 1)

CUPS = DatasetSpec(name="acme/cups", source={str(folder)!r}, transform=transform, metadata={{"task": "acme/cups"}})
"""
    (package / "data.py").write_text(text)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    store = imported("acme-cups", processes=2)
    assert store.name == "acme/cups"
    assert store.group_names == [("acme/cups", "")]
    assert store.returns.tolist() == [5.0] * 4
    with pytest.raises(SourceError, match="'bad' is no DatasetSpec but int"):
        imported("bad")
    (package / "data.py").write_text(text.replace("+ 1", "+ 2.5"))
    for name in [name for name in sys.modules if name.startswith("acme_robots")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    with pytest.raises(StoreError, match="holds another import"):
        imported("acme-cups")


def helped(folder: Path, head: str = "") -> str:
    """A file whose transform is another module's; that one takes a number from a third, and nobody asks the fourth."""
    (folder / "helper.py").write_text(
        "import dataclasses\n"
        f"from {head}numbers_of_mine import BONUS\n"
        "def add(episode):\n    return dataclasses.replace(episode, rewards=episode.rewards + BONUS)\n"
    )
    (folder / "numbers_of_mine.py").write_text("BONUS = 1\n")
    (folder / "another.py").write_text("x = 1\n")
    return f"{HEAD}\nfrom {head}helper import add\n\ndef transform(episode):\n    return add(episode)\n"


@pytest.mark.parametrize("packaged", [False, True])
def test_what_a_transform_imports_of_the_users_own_counts(folder, tmp_path, imported, monkeypatch, packaged):
    """A file with modules beside it, and a package whose modules import each other."""
    site = tmp_path / "site"
    code = site / "acme_arms" if packaged else site
    code.mkdir(parents=True)
    text = helped(code, "." if packaged else "")
    (code / "data.py").write_text(f"{text}\nCUPS = DatasetSpec(source={str(folder)!r}, transform=transform)\n")
    monkeypatch.syspath_prepend(str(site))
    source = f"{code}/data.py:CUPS"
    if packaged:
        (code / "__init__.py").write_text("")
        about = site / "acme_arms-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-arms\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[gato.datasets]\nacme-arms = acme_arms.data:CUPS\n")
        source = "acme-arms"

    def again(file: str, text: str) -> list[float]:
        (code / file).write_text(text)
        for name in ("helper", "numbers_of_mine", *[name for name in sys.modules if name.startswith("acme_arms")]):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return imported(source).returns.tolist()

    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # a changed file of equal size and second would be its old self
    assert again("another.py", "x = 2\n") == [5.0] * 4
    assert again("another.py", "x = 3\n") == [5.0] * 4
    with pytest.raises(StoreError, match=r"holds another import \(other code of your own\)"):
        again("numbers_of_mine.py", "BONUS = 2\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return dataclasses.replace(episode, actions={'action': episode.actions['action'][:, :1]})",
            r"shape \(1,\) a st",
        ),
        ("return dataclasses.replace(episode, actions={'action': episode.actions['action'][:-1]})", r"4 steps, but"),
        ("return dataclasses.replace(episode, actions={'action': 3.0})", r"does not match its spec: TypeError"),
        ("return dataclasses.replace(episode, actions={})", r"actions: action missing"),
        ("return episode.observations", "transform gave dict instead of an Episode or None"),
        ("return 1 / 0", "transform failed: ZeroDivisionError"),
    ],
)
def test_mistakes_of_a_transform_are_one_line_with_the_place(folder, tmp_path, imported, body, message):
    source = transformed(tmp_path, f"if not episode.metadata['success']:\n    {body}\nreturn episode")
    with pytest.raises(GatoError, match=rf"mine/1\.npz: .*{message}"):
        imported(source, path=str(folder))
    assert imported(source, path=str(folder), bad="skip").lengths.tolist() == [5, 5, 5]


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        buffer = io.BytesIO()
        pixels = rng.integers(256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        lines.append({"image": f"{number}.jpg", "text": f"thing {number}"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_a_transform_may_rename_pictures(tmp_path, imported):
    """JPEG files stay what they are under another name, and those that it adds as files or arrays are understood."""
    shop = pictures(tmp_path / "shop", 4)
    source = transformed(
        tmp_path,
        "if episode.observations['text'] == ['thing 0']:\n"
        "    return None\n"
        "seen = episode.observations['image']\n"
        "grey = np.full((1, 8, 8, 1), 77, np.uint8)\n"
        "return dataclasses.replace(\n"
        "    episode, observations={'photo': seen, 'grey': grey, 'words': episode.observations['text']})",
        "options={'size': (32, 48)}, spec=EpisodeSpec({'photo': LeafSpec('image', (32, 48, 3)), "
        "'grey': LeafSpec('image', (8, 8, 1)), 'words': LeafSpec('text')}, {}, 'document')",
    )
    store = imported(source, path=str(shop))
    assert store.jpeg == ["photo"]
    assert len(store) == 3
    read = store.episode(0).observations
    np.testing.assert_array_equal(read["photo"][0], jpeg.decode((shop / "1.jpg").read_bytes(), (32, 48, 3)))
    assert (read["grey"] == 77).all()
    (shop / "2.jpg").write_bytes((shop / "2.jpg").read_bytes()[:-100])
    with pytest.raises(GatoError, match=r"captions\.jsonl: line 3: a damaged image"):
        imported(source, path=str(shop), dest="again")


def test_data_of_no_known_format_are_not_taken_for_text(folder, tmp_path):
    assert detect(folder) == detect(folder / "0.npz") == "arrays"
    outer = tmp_path / "outer"
    outer.mkdir()
    folder.rename(outer / "mine")
    (outer / "README.md").write_text("All about my robot.")
    with pytest.raises(SourceError, match=r"outer: 4 \.npz, 1 \.md is no format that is known.* --format: rlds: "):
        detect(outer)
    for name in ("recording.bag", "notes"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(SourceError, match=f"{name}: 1 .* is no format"):
            detect(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: an empty folder is no format"):
        detect(tmp_path / "empty")
    assert detect(outer / "README.md") == "text"
    (tmp_path / "h5").mkdir()
    (tmp_path / "h5" / "a.hdf5").write_bytes(b"x")
    (tmp_path / "h5" / "README.md").write_text("x")
    assert detect(tmp_path / "h5") == "arrays"


def test_numbers_of_values_need_integers(folder):
    for leaf in ("observations.x", "actions.action"):
        spec = open_source(SourceReference(str(folder), values=((leaf, 4),))).spec
        group, _, path = leaf.partition(".")
        assert getattr(spec, group)[path] == LeafSpec("discrete", (3,) if path == "x" else (2,), values=4)
    np.savez(folder / "0.npz", **{"observations/x": np.array("words"), "actions": np.zeros((5, 2))})
    with pytest.raises(SourceError, match=r"observations\.x holds <U5, no integers 0\.\.3"):
        open_source(SourceReference(str(folder), values=(("observations.x", 4),)))


def test_a_path_goes_with_a_spec_alone(folder, tmp_path, imported):
    """Else one of two data sets would be ignored without a word."""
    for source in ("own", str(folder)):
        with pytest.raises(
            SourceError, match=rf"^--path \S+mine: goes with a DatasetSpec .*'{source}' is none; name the"
        ):
            imported(source, path=str(folder))
    (tmp_path / "robot.py").write_text(f"{HEAD}\nA = DatasetSpec(source='elsewhere')\n")
    assert imported(f"{tmp_path}/robot.py", path=str(folder)).name == "mine"
