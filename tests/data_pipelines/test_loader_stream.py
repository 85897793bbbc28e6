"""The stream of batches: threads, processes, hosts and resuming change nothing in it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loaders import open_loader
from synthetic import VECTORS, assert_same_batch, one_group, vectors_episode, write_store

from gato.data_pipelines.errors import ResumeError
from gato.data_pipelines.loader import Loader
from gato.tokenizers.layout import Layout


def take(loader: Loader, count: int) -> list[dict]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


@pytest.mark.parametrize(
    ("threads", "workers", "then_threads", "then_workers"),
    [(2, 0, 1, 2), (4, 0, 2, 0), (0, 1, 0, 1), (1, 2, 0, 1)],
)
def test_threads_and_processes_give_the_same_stream(stores, threads, workers, then_threads, then_workers):
    """And a resumed run may have other numbers of them."""
    plain = take(open_loader(stores, threads=0), 30)
    other = open_loader(stores, threads=threads, workers=workers)
    for a, b in zip(plain, [next(other) for _ in range(30)], strict=True):
        assert_same_batch(a, b)
    resumed = open_loader(stores, threads=then_threads, workers=then_workers)
    resumed.restore(json.loads(json.dumps(other.state())))
    for a, b in zip(take(open_loader(stores, start_batch=30), 3), [next(resumed) for _ in range(3)], strict=True):
        assert_same_batch(a, b)


@pytest.mark.parametrize(
    "hosted", [[[0, 1]], [[0], [1]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 3], [1, 2]], [[0, 1], [0, 1]]]
)
def test_hosts_and_groups_are_parts_of_the_same_global_batches(stores, hosted):
    """Also where a host's groups are no neighbours, and where two hosts hold the same groups."""
    whole = open_loader(stores)
    groups = 1 + max(max(mine) for mine in hosted)
    loaders = [open_loader(stores, groups=groups, hosted=mine) for mine in hosted]
    for number in (0, 3, 70):
        expected = one_group([whole.batch(number)])
        batches = [loader.batch(number) for loader in loaders]
        joined = one_group(batches, hosted)
        for name in ("ids", "loss_weight", "local_position", "segment_ids", "positions", "kinds", "source"):
            np.testing.assert_array_equal(joined[name], expected[name])
        np.testing.assert_array_equal(joined["patch_intervals"], expected["patch_intervals"])
        assert len({batch["patches"].shape for batch in batches}) == 1
        assert len({batch["target_ids"].shape for batch in batches}) == 1
        assert batches[0]["target_ids"].shape[0] == len(hosted[0])
        image = expected["patch_index"] >= 0
        np.testing.assert_array_equal(joined["patch_index"] >= 0, image)
        np.testing.assert_array_equal(
            joined["patches"][joined["patch_index"][image]], expected["patches"][expected["patch_index"][image]]
        )
        real, wanted = joined["target_weight"] > 0, expected["target_weight"] > 0
        for name in ("target_index", "target_ids", "target_weight", "target_kind", "target_source"):
            np.testing.assert_array_equal(joined[name][real], expected[name][wanted])


def test_resume_at_any_step_equals_uninterrupted(stores):
    uninterrupted = take(open_loader(stores), 45)
    for stop in (0, 1, 17, 44):
        first = open_loader(stores, threads=2)
        take_exactly(first, stop)
        state = json.loads(json.dumps(first.state()))
        assert state["next_batch"] == stop
        second = open_loader(stores)
        take_exactly(second, 2)  # wherever it stands
        second.restore(state)
        assert_same_batch(next(second), uninterrupted[stop])
    assert_same_batch(next(open_loader(stores, start_batch=30)), uninterrupted[30])


def take_exactly(loader: Loader, count: int) -> None:
    for _ in range(count):
        next(loader)


FRESH = """
import json, sys, hashlib
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from loaders import open_loader
loader = open_loader({name: Path(path) for name, path in json.loads(sys.argv[2]).items()})
batch = loader.batch(int(sys.argv[3]))
print(hashlib.sha256(b"".join(value.tobytes() for value in batch.values())).hexdigest())
"""


def test_a_fresh_process_gives_the_same_bytes(stores):
    here = Path(__file__).parent
    paths = json.dumps({name: str(path) for name, path in stores.items()})
    output = subprocess.run(
        [sys.executable, "-c", FRESH, str(here), paths, "123"],
        capture_output=True,
        text=True,
        check=True,
        cwd=here.parents[1],
        env={"PYTHONPATH": str(here.parents[1]), "PYTHONHASHSEED": "77"},
    ).stdout
    batch = open_loader(stores).batch(123)
    assert output.strip() == hashlib.sha256(b"".join(value.tobytes() for value in batch.values())).hexdigest()


def test_a_moved_store_may_be_resumed_but_changed_data_may_not(stores, tmp_path):
    rng = np.random.default_rng(3)
    episodes = [vectors_episode(rng, k, 5) for k in range(6)]
    paths = [write_store(tmp_path / name, "vectors", VECTORS, episodes) for name in ("a", "b")]
    episodes[3].rewards[2] += 1
    paths.append(write_store(tmp_path / "c", "vectors", VECTORS, episodes))
    a, b, c = (open_loader({"vectors": path}) for path in paths)
    b.restore(a.state())
    with pytest.raises(ResumeError, match=r"sources\.vectors\.data: "):
        c.restore(a.state())


def test_refused_resume_lists_the_differences(stores):
    state = open_loader(stores).state()
    with pytest.raises(ResumeError, match=r"seed: 0 -> 1") as error:
        open_loader(stores, seed=1).restore(state)
    assert "\n" not in str(error.value)
    with pytest.raises(ResumeError, match="batch_size: 8 -> 16"):
        open_loader(stores, batch_size=16).restore(state)
    with pytest.raises(ResumeError, match=r"tokenizer\.layout\.weights\.text: 1\.0 -> 0\.5"):
        open_loader(stores, Layout(weights={"text": 0.5, "action": 1.0})).restore(state)
    fewer = {name: path for name, path in stores.items() if name != "text"}
    with pytest.raises(ResumeError, match=r"sources\.text: .* -> null"):
        open_loader(fewer).restore(state)
    with pytest.raises(ResumeError, match="source_order"):
        open_loader(dict(reversed(stores.items()))).restore(state)


def test_validation_batches_repeat_and_keep_to_held_out_episodes(stores):
    loader = open_loader(stores)
    batches = list(loader.validation_batches(2))
    for a, b in zip(batches, loader.validation_batches(2), strict=True):
        assert_same_batch(a, b)
    number = [source.name for source in loader.sources].index("vectors")
    held_out = set(loader.sources[number].episodes["held_out"].tolist())
    batch = batches[0]
    first_clock = (batch["source"] == number) & (batch["local_position"] == 0)  # the episode's number
    assert set(batch["ids"][first_clock].tolist()) <= held_out
    train = loader.batch(0)
    seen = set(train["ids"][(train["source"] == number) & (train["local_position"] == 0)].tolist())
    assert seen
    assert not seen & held_out
