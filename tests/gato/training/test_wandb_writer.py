"""Metrics at Weights & Biases: offline, for real; and what is said where the package or the service is not there."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from gato.training.config import TrainConfig
from gato.training.metrics import read_metrics
from gato.training.trainer import train
from gato.training.wandb_writer import ID_FILE, WandbError, WandbWriter


def records(folder: Path) -> Iterator[Record]:
    """What the offline runs in a directory would send, in their order.

    Their files are LevelDB logs: blocks of 32 KiB, of records with a header of checksum (4 bytes), length (2) and part
    (1: the whole, 2: first, 3: middle, 4: last); the file's own header has 7 bytes.
    """
    wandb.teardown()  # its process writes the file, until it ends
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, place, whole = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if (left := -place % 32768) < 7:
                place += left
            length, part = struct.unpack_from("<HB", data, place + 4)
            whole += data[place + 7 : place + 7 + length]
            place += 7 + length
            if part in (1, 4):
                yield Record.FromString(whole)
                whole = b""


def history(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric, sorted."""
    values = []
    for record in records(folder):
        if record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            if name in items:
                values.append((int(items["_step"]), float(items[name])))
    return sorted(values)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()  # or it would remember the mode


def test_a_run_and_its_continuation_are_one_run_there(offline: None, train_config: TrainConfig, tmp_path: Path) -> None:
    config = train_config.replace(wandb="gato-test", steps=4)
    train(config, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert history(tmp_path, "loss") == [(line["step"], line["loss"]) for line in lines]
    assert len(lines) == 4
    assert history(tmp_path, "loss/source/lamps")
    writer = WandbWriter(tmp_path, config, resume_step=4)
    writer.write(5, {"loss": 1.5, "mfu": None})
    writer.close()
    assert history(tmp_path, "loss")[-1] == (5, 1.5)
    assert not history(tmp_path, "mfu")
    runs = [record.run for record in records(tmp_path) if record.HasField("run")]
    assert {run.run_id for run in runs} == {(tmp_path / "wandb_id.txt").read_text().strip()}
    assert {run.project for run in runs} == {"gato-test"}


def test_what_starts_from_scratch_is_another_run_there(
    offline: None, train_config: TrainConfig, tmp_path: Path
) -> None:
    """The service drops steps that it has; before the first checkpoint they may be another configuration's."""
    config = train_config.replace(wandb="gato-test")
    ids = []
    for resume_step in (0, 0, 4):
        WandbWriter(tmp_path, config, resume_step).close()
        ids.append((tmp_path / ID_FILE).read_text())
    assert ids[0] != ids[1] == ids[2]


def test_without_the_package_the_way_out_is_said(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        WandbError, match=r"wandb=gato-test: the package wandb is not installed; run `pip install wandb`"
    ):
        WandbWriter(tmp_path, train_config.replace(wandb="gato-test"), resume_step=0)


def test_without_an_account_the_way_out_is_said(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(WandbError, match=r"wandb login.*WANDB_MODE=offline"):
        WandbWriter(tmp_path, train_config.replace(wandb="gato-test"), resume_step=0)
