"""The metrics file: what a line says, and that a resumed run leaves every step there once."""

import contextlib
import json
import resource
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from gato.tokenizers.layout import KINDS
from gato.training.loss import LossSums
from gato.training.metrics import FILE, MetricsWriter, add_sums, loss_metrics, read_metrics


def sums(text, weight):
    kind_loss, kind_weight = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    kind_loss[KINDS.index("text")], kind_weight[KINDS.index("text")] = text, weight
    return LossSums(text, weight, kind_loss, kind_weight, np.array([text, 0.0]), np.array([weight, 0.0]))


def test_sums_are_divided_once():
    """A mean of means would say 3."""
    both = add_sums(add_sums(None, sums(text=4.0, weight=1.0)), sums(text=6.0, weight=3.0))
    expected = {"loss": 2.5, "loss/text": 2.5, "loss/source/a": 2.5}
    assert loss_metrics(both, ["a", "b"]) == expected


def test_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": float(step), "mfu": None})
    writer.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "lo')  # killed here
    writer = MetricsWriter(tmp_path, resume_step=2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / FILE)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_not_a_number_is_null(tmp_path):
    writer = MetricsWriter(tmp_path, resume_step=0)
    writer.write(1, {"loss": float("nan")})
    writer.close()
    assert json.loads((tmp_path / FILE).read_text())["loss"] is None


def events(run_dir):
    """All records of the only file, their checksums compared."""
    (path,) = (run_dir / "tensorboard").iterdir()
    data = path.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        record, checksums = data[12 : 12 + size], (data[8:12], data[12 + size : 16 + size])
        assert checksums == tuple(struct.pack("<I", masked_crc32c(part)) for part in (data[:8], record))
        yield Event.FromString(record)
        data = data[16 + size :]


def test_tensorboard_gets_the_same_at_once(tmp_path):
    with contextlib.closing(MetricsWriter(tmp_path, resume_step=4)) as writer:
        writer.write(5, {"loss": 1.5, "loss/source/a": 0.25, "mfu": None, "gradient_norm": float("inf")})
        version, start, line = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, SessionLog.START)  # what an earlier attempt said of it goes
    assert line.step == 5
    assert {value.tag: value.simple_value for value in line.summary.value} == {"loss": 1.5, "loss/source/a": 0.25}


@pytest.mark.timeout(60)
def test_events_that_a_full_disk_refuses_are_an_error_and_nobody_waits(tmp_path):
    """A limit on the size of files stands for the full disk; events are longer than these lines, and meet it first."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = MetricsWriter(tmp_path, resume_step=0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            for step in range(1, 300):
                writer.write(step, {"a": 1.0})
        with pytest.raises(OSError, match="File too large"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / FILE).stat().st_size < 7500
