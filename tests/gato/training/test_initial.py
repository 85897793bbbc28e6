"""A run that starts from the parameters of another one: fine-tuning."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from processes import assert_same_run

from gato.fields import ConfigError
from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.tokenizers.text import train as train_text_model
from gato.tokenizers.vocabulary import Vocabulary
from gato.training import setup
from gato.training.checkpoint import saved_steps
from gato.training.checkpoint_meta import CheckpointError
from gato.training.metrics import read_metrics
from gato.training.partial_restore import MAY_DIFFER
from gato.training.trainer import train


def validation(run_dir):
    return [line["validation"] for line in read_metrics(run_dir / "metrics.jsonl") if "validation" in line]


def test_it_starts_where_the_other_ended(finished_run, train_config, tmp_path, capfd):
    still = dataclasses.replace(train_config.optimizer, learning_rate=1e-9, initial_learning_rate=0.0, warmup_steps=0)
    changes = {"steps": 1, "optimizer": still, "validation_every": 1, "validation_batches": 2}
    train(train_config.replace(initial=str(finished_run), **changes), tmp_path)
    assert validation(tmp_path) == pytest.approx(validation(finished_run), rel=1e-5)
    said = capfd.readouterr().err
    assert f"arrays from {finished_run}/checkpoints/8\n" in said
    assert "fresh" not in said


def test_what_has_another_shape_starts_fresh_and_is_named(finished_run, train_config, tmp_path, capfd):
    model = train_config.model.replace(local_positions=train_config.model.local_positions + 8)
    train(train_config.replace(initial=str(finished_run), model=model, steps=3), tmp_path)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "fresh" in line]
    assert "; fresh: params/embedding/" in line
    assert line.count("params/") == 2  # there, and as what is not used


def test_it_goes_on_to_the_bit_without_the_other_one(finished_run, train_config, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(finished_run / "checkpoints" / "4", other / "checkpoints" / "4")
    config = train_config.replace(initial=str(other), steps=4, checkpoint_every=2)
    train(config, tmp_path / "whole")

    class Crash(Exception):
        pass

    put, seen = setup.Setup.put, []

    def crash(self, batch):
        seen.append(batch)
        if len(seen) == 4:
            raise Crash
        return put(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(setup.Setup, "put", crash)
        with pytest.raises(Crash):
            train(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [2]
    shutil.rmtree(other)
    with pytest.raises(ConfigError, match="initial"):
        train(config.replace(initial=None), tmp_path / "run")
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_does_not_fit_is_one_clear_line(finished_run, train_config, tmp_path):
    def refused(message, **changes):
        with pytest.raises(CheckpointError, match=message) as error:
            train(train_config.replace(**{"initial": str(finished_run), **changes}), tmp_path / "run")
        assert "\n" not in str(error.value)

    refused("nowhere: no such directory", initial=str(tmp_path / "nowhere"))
    refused(r"of another network.* model.hidden 128 there, 64 here", model=train_config.model.replace(hidden=64))
    text_model = tmp_path / "other.model"
    text_model.write_bytes(train_text_model([Path(shutil.__file__).read_text()], 1500))
    model = preset("tiny", vocabulary=Vocabulary(1500), stochastic_depth=0.1)
    refused("another vocabulary", model=model, text_model=str(text_model))


def test_what_may_differ_is_named_as_the_network_names_it():
    assert set(MAY_DIFFER) < {field.name for field in dataclasses.fields(ModelConfig)}
