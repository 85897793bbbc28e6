"""Analytic FLOPs against a count by hand and against the 6 N rule."""

import numpy as np
import pytest

from gato.model.presets import count_parameters, preset
from gato.training.flops import batch_flops, forward_flops, peak_flops, train_flops


def test_parts_by_hand():
    config = preset("tiny")  # width 32, 2 layers, 2 heads x 16, hidden 128, rope
    parts = forward_flops(config, rows=2, length=10, targets=5, patches=0)
    assert parts["projections"] == 2 * 32 * 32 * (3 * 2 * 20 + 20 + 5)  # the last layer's output at the targets only
    assert parts["scores"] == 2 * 2 * 2 * 32 * (2 * 10 * 11 / 2)
    assert parts["feed_forward"] == 2 * (32 * 128 + 64 * 32) * (20 + 5)
    assert parts["head"] == 2 * 32 * 3200 * 5
    assert parts["patches"] == 0


def test_close_to_six_per_parameter_and_token():
    config = preset("gato_1_2b", position="rope")
    tokens = 512 * 1024
    flops = train_flops(config, 512, 1024, tokens)
    assert flops == pytest.approx(6 * count_parameters(config) * tokens, rel=0.06)  # the rest is attention


def test_a_batch_counts_the_targets_and_patches_that_it_has(make_batch, group_batch):
    """Not the room in its buffers, which the loader makes larger than most batches need."""
    config, batch = preset("tiny"), make_batch(rows=4, padded_targets=100)
    used = set(batch["patch_index"][batch["patch_index"] >= 0])
    assert used == {0, 1, 2, 3}
    targets = int((batch["target_weight"] > 0).sum())
    assert batch_flops(config, batch) == train_flops(config, 4, 64, targets, 4)
    # In two groups, each has its own four patches; the first group of rows alone is half of that.
    groups = group_batch(batch, 2, padding=7)
    groups["patches"] = np.pad(groups["patches"], ((0, 0), (0, 9), (0, 0), (0, 0), (0, 0)))
    assert batch_flops(config, groups) == train_flops(config, 4, 64, targets, 8)
    silent = groups | {"patch_index": np.full_like(groups["patch_index"], -1)}
    assert batch_flops(config, silent) == train_flops(config, 4, 64, targets)


def test_known_peaks():
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None
