"""What a checkpoint holds, and what its reader says about missing, damaged and foreign ones."""

import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest
from processes import start

from gato.model.transformer import abstract_params
from gato.tokenizers.layout import Layout
from gato.tokenizers.vocabulary import Vocabulary
from gato.training import manifest
from gato.training.checkpoint import (
    Checkpoints,
    check_vocabulary,
    find_checkpoint,
    load_for_inference,
    load_meta,
    saved_steps,
)
from gato.training.checkpoint_meta import CheckpointError, CheckpointMeta
from gato.training.setup import build
from gato.training.step import TrainState


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """A copy of a finished run that a test may damage."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def meta(finished_run):
    return load_meta(finished_run)


@pytest.fixture
def state():
    params = {"params": {"kernel": jax.numpy.arange(6.0).reshape(2, 3)}}
    return TrainState(jax.numpy.int32(0), params, ({"count": jax.numpy.int32(3)},))


def test_layout_on_disk(finished_run):
    checkpoint = finished_run / "checkpoints" / "8"
    assert {"params", "optimizer", "data", "meta"} <= {path.name for path in checkpoint.iterdir()}


def test_inference_reads_parameters_and_meta_from_a_run_or_a_checkpoint(finished_run, train_config, stores):
    params, meta = load_for_inference(finished_run)
    expected = abstract_params(train_config.model)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), params, expected)
    assert (meta.step, meta.model, meta.recipe, meta.layout) == (8, train_config.model, "gato", Layout())
    assert meta.text_model == stores["text_model"].read_bytes()
    assert list(meta.sources) == ["lamps", "rooms", "texts"]
    lamps = meta.sources["lamps"]
    assert (lamps.task, lamps.window_timesteps, lamps.prompt_timesteps) == ("synthetic/lamps", 4, 2)
    assert list(lamps.spec.observations) == ["dial", "lamp"]
    _, older = load_for_inference(finished_run / "checkpoints" / "4")
    assert older.step == 4
    assert CheckpointMeta.from_json(meta.to_json()) == meta


def test_state_comes_back_to_the_bit_and_old_ones_go(tmp_path, state, meta):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state, {"next_batch": step}, meta)
    checkpoints.wait()
    assert saved_steps(tmp_path) == [2, 3]
    restored, data = checkpoints.restore(3, state)
    jax.tree.map(np.testing.assert_array_equal, restored, state.replace(step=jax.numpy.int32(3)))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert (data, load_meta(tmp_path).step) == ({"next_batch": 3}, 3)
    checkpoints.close()


def test_interrupted_save_is_no_checkpoint_and_can_be_written_again(tmp_path, state, meta):
    torn = tmp_path / "checkpoints" / "2" / "params"
    torn.mkdir(parents=True)
    (torn / "half").write_text("torn")
    assert saved_steps(tmp_path) == []
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest is None
    checkpoints.save(2, state, {}, meta)
    checkpoints.close()
    assert saved_steps(tmp_path) == [2]
    assert load_meta(tmp_path).step == 2


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such directory"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_for_inference(tmp_path)


def test_damaged_parameters_name_the_way_out(run_dir):
    files = [path for path in (run_dir / "checkpoints" / "8" / "params").rglob("d/*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"checkpoints/8: damaged: params/\S*d/.* continue from step 4"):
        load_for_inference(run_dir)
    # What is named as the way out is good itself.
    (run_dir / "checkpoints" / "4" / "data" / "data.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no other good checkpoint"):
        load_for_inference(run_dir)


def test_missing_part_is_named(run_dir):
    shutil.rmtree(run_dir / "checkpoints" / "8" / "meta")
    with pytest.raises(CheckpointError, match=r"damaged: meta/data.json: missing"):
        load_for_inference(run_dir)


def test_no_flipped_bit_and_no_cut_is_ever_loaded(run_dir, train_config):
    """Every file of a checkpoint, at seeded places: an error that names the file and the newest good step."""
    checkpoint = run_dir / "checkpoints" / "8"
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) > 10
    setup = build(train_config)
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(setup.create_state),
        setup.state_shardings,
    )
    checkpoints = Checkpoints(run_dir, keep=9)
    rng = np.random.default_rng(0)
    for case in range(max(120, 4 * len(files))):
        path = files[case % len(files)]
        good = path.read_bytes()
        bad = bytearray(good)
        if rng.random() < 0.3 or not good:
            bad = bad[: rng.integers(len(good))] if good else b"x"
        else:
            bad[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"damaged: .* continue from step 4") as error:
            load_meta(run_dir)
            checkpoints.restore(8, like)
        assert path.name == "manifest.sha256" or str(path.relative_to(checkpoint)) in str(error.value)
        path.write_bytes(good)
    state, _ = checkpoints.restore(8, like)
    checkpoints.close()
    params, _ = load_for_inference(run_dir)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


def test_a_save_that_was_interrupted_before_its_manifest_is_written_again(run_dir):
    (run_dir / "checkpoints" / "8" / "manifest.sha256").unlink()
    assert saved_steps(run_dir) == [4]
    assert find_checkpoint(run_dir).name == "4"
    checkpoints = Checkpoints(run_dir, keep=2)
    assert checkpoints.latest == 4
    checkpoints.close()
    assert not (run_dir / "checkpoints" / "8").exists(), "its room may be needed"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2),
        (ValueError("NOT_FOUND: Failed to write [OS error 122: EDQUOT Disk quota exceeded]"), 2),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), 75),
        (ValueError("UNKNOWN: Failed to write [OS error 5: EIO Input/output error]"), 75),
    ],
)
def test_a_file_server_that_failed_is_no_full_disk(tmp_path, state, meta, monkeypatch, error, status):
    """No disk of a test fails like that, so what reads the files back does."""

    def fail(folder):
        raise error

    monkeypatch.setattr(manifest, "write_manifest", fail)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state, {}, meta)
    with pytest.raises(CheckpointError, match="cannot write the checkpoint") as found:
        checkpoints.close()
    assert found.value.status == status
    assert saved_steps(tmp_path) == []


def test_a_bug_while_saving_stays_a_bug(tmp_path, state, meta, monkeypatch):
    def fail(folder):
        raise TypeError("ours")

    monkeypatch.setattr(manifest, "write_manifest", fail)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state, {}, meta)
    with pytest.raises(TypeError, match="ours"):
        checkpoints.close()


ON_OTHER_MESHES = """
import json, sys
from pathlib import Path
import jax
from gato.training.checkpoint import Checkpoints
from gato.training.config import MeshConfig, TrainConfig
from gato.training.setup import build

config, source, out = TrainConfig.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
for sizes in ((8, 1, 1), (1, 8, 1), (2, 2, 2)):
    setup = build(config.replace(mesh=MeshConfig(*sizes)))
    like = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(setup.create_state), setup.state_shardings,
    )
    state, data = Checkpoints(source, 9).restore(8, like)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == setup.state_shardings
    split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    assert bool(split) == (sizes != (8, 1, 1)), "the parameters lie in parts"
    source = out / "x".join(map(str, sizes))  # what this mesh saves is what the next one reads
    checkpoints = Checkpoints(source, 9)
    checkpoints.save(8, state, data, setup.meta)
    checkpoints.close()
"""


def test_what_one_mesh_saved_others_restore_to_the_bit(finished_run, train_config, tmp_path):
    arguments = [json.dumps(train_config.replace(batch_size=8).to_json()), finished_run, tmp_path]
    with start(ON_OTHER_MESHES, arguments, tmp_path, devices=8) as processes:
        assert processes.wait() == [0], processes.everything()
    setup = build(train_config)
    like = jax.eval_shape(setup.create_state)
    like = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), like, setup.state_shardings)
    expected, position = Checkpoints(finished_run, 9).restore(8, like)
    for mesh in ("8x1x1", "1x8x1", "2x2x2"):
        state, data = Checkpoints(tmp_path / mesh, 9).restore(8, like)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert data == position


def test_other_vocabulary_is_refused(finished_run, meta):
    with pytest.raises(CheckpointError, match=r"another vocabulary.*3076 ids, not .* 4028"):
        check_vocabulary(meta, Vocabulary(3000), meta.text_model, finished_run)
    check_vocabulary(meta, Vocabulary(2048), meta.text_model, finished_run)
    with pytest.raises(CheckpointError, match="another SentencePiece model"):
        check_vocabulary(meta, Vocabulary(2048), b"other", finished_run)
