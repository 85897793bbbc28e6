"""A run directory of an older version: what it does not say counts as the default, what differs is still refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gato.fields import ConfigError
from gato.tokenizers.errors import printed
from gato.training.config import TrainConfig
from gato.training.run_directory import CONFIG_FILE, prepare, read_config


@pytest.fixture
def change(train_config: TrainConfig, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Edits the config.json that `train_config` leaves beside a checkpoint; returns its folder."""

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        prepare(tmp_path, train_config)
        path = tmp_path / CONFIG_FILE
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        checkpoint = tmp_path / "checkpoints" / "4"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.sha256").touch()
        return tmp_path

    return edit


def forget_new_fields(data: dict[str, Any]) -> None:
    for part, name in ((data, "accumulate"), (data["model"], "attention_block"), (data["sources"][1], "loss_kinds")):
        del part[name]


def test_a_run_from_before_a_field_goes_on(train_config: TrainConfig, change: Any) -> None:
    run = change(forget_new_fields)
    prepare(run, train_config)
    assert read_config(run) == train_config
    assert json.loads((run / CONFIG_FILE).read_text())["accumulate"] == 1


def test_only_with_its_default(train_config: TrainConfig, change: Any) -> None:
    run = change(forget_new_fields)
    with pytest.raises(ConfigError) as error:
        prepare(run, train_config.replace(accumulate=2))
    assert printed(error.value).splitlines()[1:] == ["  field       saved  given", "  accumulate  1      2"]


def test_a_field_of_a_newer_version_is_named(train_config: TrainConfig, change: Any) -> None:
    run = change(lambda data: data["model"].update(experts=8))
    with pytest.raises(ConfigError) as error:
        prepare(run, train_config)
    assert printed(error.value).splitlines()[1:] == [
        "  field          saved  given",
        "  model.experts  8      (absent)",
    ]
