"""A checkpoint's parameters in another network: what is taken, what is left, and that both are said."""

import shutil

import jax
import numpy as np
import pytest

from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint import load_for_inference
from gato.training.checkpoint_meta import CheckpointError
from gato.training.partial_restore import restore_params


def fresh(pieces=2048, **changes):
    config = preset("tiny", vocabulary=Vocabulary(pieces), **changes)
    return jax.jit(lambda: init_params(config, jax.random.key(7)))()


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def test_the_same_network_takes_everything(finished_run):
    params, report = restore_params(finished_run, fresh())
    expected, _ = load_for_inference(finished_run)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert (report.initial, report.unused) == ({}, ())


def test_another_vocabulary_keeps_its_own_table(finished_run):
    ours = fresh(pieces=3000)
    params, report = restore_params(finished_run, ours)
    table = "params/embedding/table"
    assert list(report.initial) == [table]
    assert "in the checkpoint" in report.initial[table]
    assert report.unused == (table,)
    assert f"{table} keeps its initial values" in str(report)
    saved, mixed, before = by_name(load_for_inference(finished_run)[0]), by_name(params), by_name(ours)
    np.testing.assert_array_equal(mixed[table], before[table])
    for name in report.taken:
        np.testing.assert_array_equal(mixed[name], saved[name])
    assert len(report.taken) == len(mixed) - 1
    places = jax.tree.map(lambda a, b: (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding), params, ours)
    assert all(jax.tree.leaves(places))


def test_a_subset_by_name(finished_run):
    ours = fresh()
    params, report = restore_params(finished_run, ours, wanted=lambda name: "/embedding/" in name)
    saved, mixed, before = by_name(load_for_inference(finished_run)[0]), by_name(params), by_name(ours)
    assert report.taken
    assert set(report.taken) | set(report.initial) == set(mixed)
    assert set(report.unused) == set(report.initial)
    for name in mixed:
        np.testing.assert_array_equal(mixed[name], (saved if "/embedding/" in name else before)[name])
        assert ("/embedding/" in name) == (name in report.taken)


def test_nothing_that_fits_is_an_error(finished_run):
    with pytest.raises(CheckpointError, match="none of its parameters fits"):
        restore_params(finished_run, {"other": jax.numpy.zeros(3)})


def test_a_damaged_checkpoint_is_refused(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    largest = max((run / "checkpoints" / "8" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{largest.name}: not what was written"):
        restore_params(run, fresh())
