"""The metrics file: what a line says, and that a resumed run leaves every step there once."""

import json

import numpy as np

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
