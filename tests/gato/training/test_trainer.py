"""A run from its configuration to its directory: resuming, signals, divergence, and what is refused."""

import dataclasses
import gc
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from gato.data_pipelines.loader import Loader
from gato.evaluation.demonstrations import open_demonstrations
from gato.fields import ConfigError
from gato.model.presets import preset
from gato.tokenizers.errors import printed
from gato.tokenizers.text import train as train_text_model
from gato.tokenizers.vocabulary import Vocabulary
from gato.training import setup, trainer
from gato.training.checkpoint import CheckpointError, Checkpoints, load_for_inference, saved_steps
from gato.training.config import TrainConfig
from gato.training.metrics import read_metrics
from gato.training.out_of_memory import OutOfMemoryError, levers_named
from gato.training.run_directory import read_config
from gato.training.trainer import DivergedError, train


def losses(run_dir):
    """step -> every loss in the line of metrics."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith(("loss", "gradient"))}
        for line in lines
        if "loss" in line
    }


def assert_same_run(left, right):
    """Every number of two finished runs is the same to the bit."""
    assert losses(left) == losses(right)
    (left_params, _), (right_params, _) = load_for_inference(left), load_for_inference(right)
    jax.tree.map(np.testing.assert_array_equal, left_params, right_params)


def on_batch(monkeypatch, number, action):
    """Calls `action(batch)` when the given batch (from 1) is handed to the device."""
    put, seen = setup.Setup.put, []

    def hooked(self, batch):
        seen.append(batch)
        return put(self, (action(batch) or batch) if len(seen) == number else batch)

    monkeypatch.setattr(setup.Setup, "put", hooked)


def test_a_run_learns_and_leaves_its_directory(finished_run, train_config):
    found = losses(finished_run)
    assert sorted(found) == list(range(1, 9))
    assert found[8]["loss"] < found[1]["loss"] - 0.3
    assert {"loss/text", "loss/action", "loss/source/lamps", "loss/source/rooms", "loss/source/texts"} <= set(found[1])
    assert saved_steps(finished_run) == [4, 8]
    validation = [line for line in read_metrics(finished_run / "metrics.jsonl") if "validation" in line]
    assert [line["step"] for line in validation] == [8]
    written = read_config(finished_run)
    assert written == train_config.replace(validation_every=8, validation_batches=2)
    table = "embedding/table  (3200, 32)  float32  P('tensor', 'fsdp')  not decayed"
    assert table in (finished_run / "parameters.txt").read_text()
    assert list((finished_run / "tensorboard").iterdir())


def test_resumed_equals_uninterrupted(finished_run, train_config, tmp_path, monkeypatch):
    class Crash(Exception):
        pass

    def crash(batch):
        raise Crash

    with monkeypatch.context() as patch:
        on_batch(patch, 7, crash)
        with pytest.raises(Crash):
            train(train_config, tmp_path)
    assert saved_steps(tmp_path) == [4]
    assert train(train_config, tmp_path).step == 8
    assert_same_run(tmp_path, finished_run)


def test_a_validation_that_fails_costs_no_checkpoint_and_is_made_up_for(
    finished_run, train_config, tmp_path, monkeypatch
):
    config = train_config.replace(validation_every=4, validation_batches=2)
    uninterrupted = tmp_path / "uninterrupted"
    train(config, uninterrupted)
    tmp_path = tmp_path / "crashed"

    class Crash(Exception):
        pass

    def crash(calls):
        """A set-up whose validation works so many times, and then no more."""
        built, left = setup.build(config), iter(range(calls))

        def step(params, batch):
            if next(left, None) is None:
                raise Crash
            return built.validation_step(params, batch)

        return dataclasses.replace(built, validation_step=step)

    def validation(run_dir):
        lines = read_metrics(run_dir / "metrics.jsonl")
        return {line["step"]: line["validation"] for line in lines if "validation" in line}

    for calls, saved, validated in ((0, [4], []), (2, [4, 8], [4])):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "build", lambda _, calls=calls: crash(calls))
            with pytest.raises(Crash):
                train(config, tmp_path)
        assert (saved_steps(tmp_path), list(validation(tmp_path))) == (saved, validated)
    result = train(config, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "validation" in line] == [4, 8]
    assert result.metrics["validation"] == validation(tmp_path)[8] == validation(finished_run)[8]
    assert validation(tmp_path)[4] == validation(uninterrupted)[4]
    assert_same_run(tmp_path, finished_run)


def test_resuming_takes_the_memory_of_one_state(finished_run, train_config, tmp_path, monkeypatch):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / "8")
    held = []

    def restore(self, *arguments):
        gc.collect()
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        restored = loaded(self, *arguments)
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return restored

    loaded = Checkpoints.restore
    monkeypatch.setattr(Checkpoints, "restore", restore)
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    train(train_config, run_dir)
    assert held[0] - before < (held[1] - held[0]) / 10, "a state was there before it was read"
    assert_same_run(run_dir, finished_run)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_at_the_step_boundary(finished_run, train_config, tmp_path, monkeypatch, capfd, number, exit_code):
    with monkeypatch.context() as patch:
        on_batch(patch, 3, lambda batch: os.kill(os.getpid(), number))
        result = train(train_config, tmp_path)
    assert (result.step, result.exit_code) == (3, exit_code)
    assert saved_steps(tmp_path) == [3]
    noted, saved = capfd.readouterr().err.split(f"{number.name}: ")[1:]
    assert noted.startswith("stopping after this step, then saving")
    assert saved.startswith("saved step 3")
    train(train_config, tmp_path)
    assert_same_run(tmp_path, finished_run)


def test_a_kernel_that_a_gpu_cannot_hold_names_the_way_out(train_config):
    said = "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 271456, available: 232448"
    with pytest.raises(OutOfMemoryError, match=r'271456.*model.attention="xla"'), levers_named(train_config):
        raise jax.errors.JaxRuntimeError(said)


def test_too_little_memory_names_the_levers_and_they_may_be_used(train_config, tmp_path, monkeypatch):
    """The device is asked for more than its addresses; before the first checkpoint any configuration may follow."""
    with monkeypatch.context() as patch:
        on_batch(patch, 1, lambda batch: jax.numpy.zeros(1 << 47, "uint8").block_until_ready())
        with pytest.raises(OutOfMemoryError, match=r"not enough memory .* accumulate \(now 1\).* model.remat.* fsdp"):
            train(train_config, tmp_path)
    followed = train_config.replace(accumulate=2, steps=3)
    assert train(followed, tmp_path).step == 3
    assert read_config(tmp_path) == followed


def test_diverged_loss_names_its_source_and_is_never_saved(train_config, tmp_path, monkeypatch):
    def poison(batch):
        rooms = (batch["target_source"] == 1) & (batch["target_weight"] > 0)
        assert rooms.any()
        return {**batch, "target_weight": np.where(rooms, np.inf, batch["target_weight"]).astype(np.float32)}

    on_batch(monkeypatch, 6, poison)
    with pytest.raises(DivergedError, match=r"step 6.*source rooms.*checkpoint of step 4 is good"):
        train(train_config.replace(checkpoint_every=2), tmp_path)
    assert saved_steps(tmp_path) == [2, 4]
    _, meta = load_for_inference(tmp_path)
    assert meta.step == 4


def test_a_full_disk_costs_only_the_checkpoint_that_did_not_fit(
    finished_run, train_config, tmp_path, monkeypatch, capfd
):
    """A limit on the size of files stands for the full disk: TensorStore reports both in the same way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(batch):
        while saved_steps(tmp_path) != [4]:
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    try:
        with monkeypatch.context() as patch:
            on_batch(patch, 6, fill)
            with pytest.raises(CheckpointError, match=r"cannot write .* free space .*resumes from step 4$") as error:
                train(train_config, tmp_path)
        assert error.value.status == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert saved_steps(tmp_path) == [4]
    assert train(train_config, tmp_path).step == 8
    assert_same_run(tmp_path, finished_run)


def test_other_configuration_is_refused_with_the_difference(finished_run, train_config):
    changed = train_config.replace(seed=3, batch_size=8)
    with pytest.raises(ConfigError, match="holds a run with another configuration") as error:
        train(changed, finished_run)
    table = """
  field       saved  given
  batch_size  4      8
  seed        0      3"""
    assert printed(error.value).endswith(table)


def test_a_run_goes_on_with_other_remat_and_tiles(finished_run, train_config, tmp_path):
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / "8")
    train(train_config.replace(model=train_config.model.replace(remat="full", attention_block=32)), run_dir)
    (params, meta), (expected, _) = load_for_inference(run_dir), load_for_inference(finished_run)
    assert (meta.step, meta.model.remat) == (8, "full")
    # As in test_peers: other last bits, which Adam makes up to a learning rate (3e-3) where a gradient is near zero.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, expected)


@pytest.mark.parametrize("pieces", [2048, 1500])
def test_another_vocabulary_is_refused_by_name(finished_run, train_config, tmp_path, pieces):
    """Without its config.json nothing but the checkpoint says so: not even the shapes, where the sizes are the same."""
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    (run_dir / "config.json").unlink()
    text_model = tmp_path / "other.model"
    text_model.write_bytes(train_text_model([Path(shutil.__file__).read_text()], pieces))
    model = preset("tiny", vocabulary=Vocabulary(pieces), stochastic_depth=0.1)
    with pytest.raises(CheckpointError, match=r"was trained with another vocabulary .* train in a new run directory"):
        train(train_config.replace(model=model, text_model=str(text_model)), run_dir)
    assert saved_steps(run_dir) == saved_steps(finished_run)


def test_pauses_are_no_part_of_the_speed(train_config, tmp_path, monkeypatch, capfd):
    """Validation and a compilation on the way each seem to take a thousand seconds."""
    real, pauses, lists = (
        time.perf_counter,
        [],
        ("target_index", "target_ids", "target_weight", "target_kind", "target_source"),
    )
    monkeypatch.setattr(time, "perf_counter", lambda: real() + 1000 * len(pauses))

    def pausing(function, when):
        def called(first, batch):
            result = function(first, batch)
            if when(batch):
                pauses.append(batch["target_index"].shape)
            return result

        return called

    def build(config):
        built, shapes = setup.build(config), set()

        def new(batch):
            shape = batch["target_index"].shape
            return shape not in shapes and not shapes.add(shape)

        return dataclasses.replace(
            built,
            train_step=pausing(built.train_step, new),
            validation_step=pausing(built.validation_step, lambda batch: True),
        )

    def more_room(batch):
        return batch | {name: np.pad(batch[name], ((0, 0), (0, 64))) for name in lists}

    monkeypatch.setattr(trainer, "build", build)
    monkeypatch.setattr(trainer.cost, "step_line", lambda *_: None)  # asks the step itself
    next_batch, seen = Loader.__next__, []

    def hand_out(self):
        seen.append(next_batch(self))
        return more_room(seen[-1]) if len(seen) == 5 else seen[-1]

    monkeypatch.setattr(Loader, "__next__", hand_out)
    train(train_config.replace(steps=12, log_every=4, validation_every=3, validation_batches=1), tmp_path)
    assert len(pauses) == 2 + 4
    said = capfd.readouterr().err
    rate = re.search(r"(\S+) s a step, measured over 10", said)
    assert float(rate[1]) < 30, said
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    tokens = np.count_nonzero(seen[-1]["segment_ids"])
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(line["tokens_per_second"] > tokens / 100 for line in lines), lines


def test_finished_run_has_nothing_to_do(finished_run, train_config, capfd):
    before = (finished_run / "metrics.jsonl").read_text()
    result = train(train_config.replace(keep=7, log_every=5), finished_run)
    assert (result.step, result.exit_code) == (8, 0)
    said = capfd.readouterr().err
    assert "nothing left to do" in said
    assert "attention: tiles in plain XLA, head by head" in said
    assert (finished_run / "metrics.jsonl").read_text() == before


def test_return_conditioned_runs_through_the_same_trainer(train_config, tmp_path):
    result = train(train_config.replace(recipe="return_conditioned", steps=4), tmp_path)
    assert result.step == 4
    first = losses(tmp_path)[1]
    assert "loss/action" in first
    assert "loss/text" not in first
    _, meta = load_for_inference(tmp_path)
    assert meta.layout.timestep[0] == "return_to_go"
    assert meta.sources["lamps"].statistics["target_return"] > 5


def test_a_moved_run_directory_is_resumed_and_its_data_found(train_config, stores, tmp_path):
    """What lies in the directory moves with it; nothing of the configuration names the old place."""
    before, after = tmp_path / "before", tmp_path / "elsewhere" / "after"
    for name in ("lamps", "rooms", "texts"):
        shutil.copytree(stores[name], before / "data" / name)
    shutil.copy(stores["text_model"], before / "text.model")

    def config(run: Path) -> TrainConfig:
        sources = tuple(
            dataclasses.replace(source, path=str(run / "data" / Path(source.path).name))
            for source in train_config.sources
        )
        return train_config.replace(sources=sources, text_model=str(run / "text.model"))

    train(config(before), before)
    after.parent.mkdir()
    before.rename(after)
    assert "before" not in (after / "config.json").read_text()
    moved = read_config(after)
    assert [Path(source.path) for source in moved.sources] == [after / "data" / n for n in ("lamps", "rooms", "texts")]
    assert moved.text_model == str(after / "text.model")
    assert set(open_demonstrations(after)) == {"lamps", "rooms", "texts"}
    assert train(config(after), after).step == 8
