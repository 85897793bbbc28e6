"""What a checkpoint holds, and what its reader says about missing, damaged and foreign ones."""

import shutil

import jax
import numpy as np
import pytest

from gato.model.transformer import abstract_params
from gato.tokenizers.layout import Layout
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint import (
    CheckpointError,
    CheckpointMeta,
    Checkpoints,
    check_vocabulary,
    find_checkpoint,
    load_for_inference,
    load_meta,
    saved_steps,
)
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
    with pytest.raises(CheckpointError, match=r"checkpoints/8: cannot be read .* continue from step 4"):
        load_for_inference(run_dir)


def test_missing_part_is_named(run_dir):
    shutil.rmtree(run_dir / "checkpoints" / "8" / "meta")
    with pytest.raises(CheckpointError, match="meta is missing"):
        load_for_inference(run_dir)


def test_other_vocabulary_is_refused(finished_run, meta):
    with pytest.raises(CheckpointError, match=r"another vocabulary.*3076 ids, not .* 4028"):
        check_vocabulary(meta, Vocabulary(3000), meta.text_model, finished_run)
    check_vocabulary(meta, Vocabulary(2048), meta.text_model, finished_run)
    with pytest.raises(CheckpointError, match="another SentencePiece model"):
        check_vocabulary(meta, Vocabulary(2048), b"other", finished_run)
