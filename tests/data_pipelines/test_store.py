import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import (
    CAPTIONS,
    MISSIONS,
    PIXELS,
    TEXT,
    VECTORS,
    captions_document,
    missions_episode,
    pixels_episode,
    text_document,
    vectors_episode,
    write_store,
)

from gato.data_pipelines import jpeg, store_writer
from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.store import Store
from gato.data_pipelines.store_writer import StoreWriter
from gato.tokenizers.errors import SpecError


def same(read: Episode, written: Episode, start: int, stop: int) -> None:
    assert len(read) == stop - start
    np.testing.assert_array_equal(read.rewards, written.rewards[start:stop])
    for got, want in ((read.observations, written.observations), (read.actions, written.actions)):
        assert set(got) == set(want)
        for path, values in want.items():
            np.testing.assert_array_equal(got[path], values[start:stop])


@pytest.mark.parametrize(
    ("spec", "make"),
    [(VECTORS, vectors_episode), (MISSIONS, missions_episode), (PIXELS, pixels_episode)],
)
def test_any_range_of_timesteps_reads_back(tmp_path, spec, make):
    rng = np.random.default_rng(1)
    written = [make(rng, k, steps) for k, steps in enumerate([1, 8, 9, 32, 33, 100])]
    store = Store(write_store(tmp_path / "s", "name", spec, written))
    assert store.name == "name"
    assert store.spec == spec
    assert len(store) == 6
    assert store.lengths.tolist() == [1, 8, 9, 32, 33, 100]
    np.testing.assert_allclose(store.returns, 1, rtol=1e-5)
    for k, episode in enumerate(written):
        same(store.episode(k), episode, 0, len(episode))
        for _ in range(10):
            start, stop = sorted(rng.choice(len(episode) + 1, 2, replace=False).tolist())
            same(store.episode(k, start, stop), episode, start, stop)


@pytest.mark.parametrize(("spec", "make"), [(TEXT, text_document), (CAPTIONS, captions_document)])
def test_documents_read_back(tmp_path, spec, make):
    rng = np.random.default_rng(1)
    written = [make(rng, k) for k in range(30)]
    store = Store(write_store(tmp_path / "s", "name", spec, written))
    for k in rng.permutation(30).tolist():
        same(store.episode(k), written[k], 0, 1)


def test_metadata_and_groups(tmp_path):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", "s", VECTORS, {"task": "reach", "agent": "a"}) as writer:
        for k in range(4):
            episode = vectors_episode(rng, k, 3)
            episode.metadata = {"success": np.bool_(True), "score": np.float32(2.5)}
            if k == 3:
                episode.metadata["agent"] = "b"
            episode.terminated, episode.truncated = k == 1, k != 1
            writer.write(episode)
    store = Store(tmp_path / "s")
    assert store.episode(0).metadata == {"task": "reach", "agent": "a", "success": True, "score": 2.5}
    assert [store.episode(k).terminated for k in range(4)] == [False, True, False, False]
    assert store.group_names == [("reach", "a"), ("reach", "b")]
    assert store.groups.tolist() == [0, 0, 0, 1]


def test_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 2000)
    rng = np.random.default_rng(0)
    written = [vectors_episode(rng, k, 100) for k in range(9)]
    store = Store(write_store(tmp_path / "s", "s", VECTORS, written))
    assert len(list((tmp_path / "s").glob("*.array_record"))) > 3
    for k, episode in enumerate(written):
        same(store.episode(k, 5, 95), episode, 5, 95)


def test_fingerprint_is_that_of_the_content(tmp_path):
    def write(name: str, change: float) -> str:
        episode = vectors_episode(np.random.default_rng(0), 0, 5)
        episode.actions["action"][2, 1] += change
        return Store(write_store(tmp_path / name, "s", VECTORS, [episode])).fingerprint

    assert write("a", 0) == write("b", 0) != write("c", 1e-3)


def test_a_bad_episode_leaves_nothing_behind(tmp_path):
    rng = np.random.default_rng(0)
    bad = vectors_episode(rng, 1, 5)
    bad.observations["hand"][3, 0] = np.nan
    with pytest.raises(SpecError, match=r"s: episode 1: observations.hand: step 3"):
        write_store(tmp_path / "s", "s", VECTORS, [vectors_episode(rng, 0, 5), bad])
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogate_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"episode 0: observations\.text: step 0: text that is not UTF-8"):
        write_store(tmp_path / "s", "s", TEXT, [Episode({"text": ["a\ud800"]}, {}, np.zeros(1, np.float32))])


def test_an_interrupted_predecessor_does_not_matter(tmp_path):
    (tmp_path / ".s.partial").mkdir()
    (tmp_path / ".s.partial" / "data-00000.array_record").write_bytes(b"")
    write_store(tmp_path / "s", "s", VECTORS, [vectors_episode(np.random.default_rng(0), 0, 5)])
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    with pytest.raises(StoreError, match="already exists"):
        write_store(tmp_path / "s", "s", VECTORS, [])


def test_empty_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no episode"):
        write_store(tmp_path / "s", "s", VECTORS, [])
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    def __init__(self, *_):
        pass

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        pass


def test_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "ArrayRecordWriter", FullDisk)
    with pytest.raises(StoreError, match="disk is full after 0 episodes"):
        write_store(tmp_path / "s", "s", VECTORS, [vectors_episode(np.random.default_rng(0), 0, 5)])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def big(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    return write_store(tmp_path / "s", "s", VECTORS, [vectors_episode(rng, k, 1000) for k in range(9)])


@pytest.mark.parametrize("size", [0, 1000, 65536])
def test_truncated_shard(big, size):
    shard = big / "data-00000.array_record"
    data = shard.read_bytes()
    assert len(data) > 70000
    shard.write_bytes(data[:size])
    with pytest.raises(StoreError, match=f"data-00000.array_record: has {size} bytes instead of"):
        Store(big)


def test_truncated_shard_whose_size_was_not_noticed(big):
    """ArrayRecord opens a file cut to 65,536 bytes and returns empty records."""
    shard = big / "data-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:65536])
    header = json.loads((big / "store.json").read_text())
    header["shards"][0]["bytes"] = 65536
    header.pop("checksum")
    store_writer.write_header(big, header)
    store = Store(big)
    with pytest.raises(StoreError, match=r"data-00000\.array_record"):
        store.episode(8)


def read_all(path: Path) -> None:
    store = Store(path)
    for k in range(len(store)):
        store.episode(k)


def test_flipped_bit(big):
    shard = big / "data-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="again"):
        read_all(big)


def test_other_damage(big):
    header = json.loads((big / "store.json").read_text())
    (big / "store.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(StoreError, match="store version 99, this program reads version 3"):
        Store(big)
    (big / "store.json").write_text(json.dumps({**header, "name": "other"}))
    with pytest.raises(StoreError, match=r"store\.json: was changed or damaged"):
        Store(big)
    (big / "store.json").write_text(json.dumps(header)[:-20])
    with pytest.raises(StoreError, match=r"store\.json: cannot be read"):
        Store(big)
    (big / "store.json").write_text(json.dumps(header))
    index = (big / "index.npz").read_bytes()
    (big / "index.npz").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"index\.npz"):
        Store(big)
    (big / "episodes.jsonl").write_bytes(b"")
    (big / "index.npz").write_bytes(index)
    with pytest.raises(StoreError, match=r"episodes\.jsonl: cannot be read"):
        Store(big)
    with pytest.raises(StoreError, match="not a store"):
        Store(big / "nothing")


def test_a_flipped_byte_in_an_episodes_line_is_named(big):
    data = bytearray((big / "episodes.jsonl").read_bytes())
    data[len(data) // 2] ^= 1
    (big / "episodes.jsonl").write_bytes(data)
    with pytest.raises(StoreError, match=r"episodes\.jsonl: episode \d: damaged"):
        read_all(big)


def twin(path: Path, seed: int) -> Path:
    """A store whose files have the sizes of every other seed's: noise, which zstd cannot shorten, in equal numbers."""
    rng = np.random.default_rng(seed)
    spec = EpisodeSpec.of({"x": LeafSpec("image", (8, 8, 3))}, LeafSpec("discrete", (16,), values=256))
    episodes = [
        Episode(
            {"x": rng.integers(256, size=(16, 8, 8, 3), dtype=np.uint8)},
            {"action": rng.integers(256, size=(16, 16))},
            np.zeros(16, np.float32),
        )
        for _ in range(3)
    ]
    return write_store(path, "s", spec, episodes)


@pytest.mark.parametrize("name", ["data-00000.array_record", "index.npz"])
def test_a_file_of_another_store_is_refused(tmp_path, name):
    """Equal in size and in its number of records, and whole in itself."""
    mine, other = twin(tmp_path / "a", 1), twin(tmp_path / "b", 2)
    assert Store(mine).fingerprint != Store(other).fingerprint
    if name == "index.npz":  # as many episodes of the same lengths, but other returns
        with np.load(other / name) as index:
            np.savez(other / name, **{**index, "returns": index["returns"] + 1})
    assert (mine / name).stat().st_size == (other / name).stat().st_size
    (mine / name).write_bytes((other / name).read_bytes())
    with pytest.raises(
        StoreError, match=rf"{name}: damaged, or of another store: its digest is \w{{32}}, store.json says"
    ):
        read_all(mine)


def test_swapped_shards_of_one_store_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_BYTES", 3000)
    path = twin(tmp_path / "s", 1)
    first, second = path / "data-00000.array_record", path / "data-00001.array_record"
    assert first.stat().st_size == second.stat().st_size
    first.rename(path / "kept")
    second.rename(first)
    (path / "kept").rename(second)
    with pytest.raises(StoreError, match=r"data-00000\.array_record: damaged, or of another store"):
        read_all(path)


def test_camera_images_stay_jpeg_files(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(256, size=(20, 4, 4, 3), dtype=np.uint8)
    images = np.stack([np.asarray(Image.fromarray(image).resize((64, 48))) for image in small])
    files = [jpeg.encode(image) for image in images]
    spec = EpisodeSpec.of({"camera": LeafSpec("image", (48, 64, 3))}, LeafSpec("discrete", values=2))
    for name, values in (("files", files), ("arrays", images)):
        with StoreWriter(tmp_path / name, "s", spec, {}, jpeg=("camera",)) as writer:
            writer.write(Episode({"camera": values}, {"action": np.zeros(20, np.int64)}, np.zeros(20, np.float32)))
        read = Store(tmp_path / name).episode(0, 5, 14).observations["camera"]
        np.testing.assert_array_equal(read, np.stack([jpeg.decode(file, (48, 64, 3)) for file in files[5:14]]))
        assert np.abs(read.astype(int) - images[5:14]).mean() < 3
    with (
        pytest.raises(SpecError, match=r"camera: step 3: a damaged JPEG file"),
        StoreWriter(tmp_path / "bad", "s", spec, {}, jpeg=("camera",)) as writer,
    ):
        broken = [*files[:3], files[3][:-100], *files[4:]]
        writer.write(Episode({"camera": broken}, {"action": np.zeros(20, np.int64)}, np.zeros(20, np.float32)))
