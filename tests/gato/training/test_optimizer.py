"""The golden learning rates, the decay mask, and clipping."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model.presets import preset
from gato.model.transformer import abstract_params
from gato.tokenizers.errors import GatoError
from gato.training.optimizer import OptimizerConfig, decay_mask, learning_rate_schedule, make_optimizer

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "training.json").read_text())["learning_rate"]["values"]


@pytest.mark.parametrize("point", GOLDEN, ids=lambda point: str(point["step"]))
def test_learning_rate_of_the_paper(point):
    schedule = learning_rate_schedule(OptimizerConfig(), steps=1_000_000)
    assert float(schedule(point["step"])) == pytest.approx(point["lr"], rel=2e-6)


def test_constant_rate_for_fine_tuning():
    config = OptimizerConfig(learning_rate=1e-5, warmup_steps=0, decay_steps=None, final_fraction=1.0, weight_decay=0.0)
    schedule = learning_rate_schedule(config, steps=100)
    assert [float(schedule(step)) for step in (0, 50, 100)] == pytest.approx([1e-5] * 3)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_matrices_decay_and_nothing_else(scan_layers):
    params = abstract_params(preset("tiny", position="transformer_xl", scan_layers=scan_layers, layers=3))["params"]
    mask = decay_mask(params)
    block = "blocks" if scan_layers else "blocks_0"
    for name in (block, "last_block"):
        decayed = {path[-1].key for path, on in jax.tree_util.tree_leaves_with_path(mask[name]) if on}
        kept = {path[-1].key for path, on in jax.tree_util.tree_leaves_with_path(mask[name]) if not on}
        assert kept == {"scale", "u", "v"}
        assert {"relative", "out", "down"} <= decayed
    embedding = mask["embedding"]
    assert not embedding["table"]
    assert not embedding["local_positions"]
    assert embedding["patches"]["conv_0"] == {"kernel": True, "bias": False}


def test_unknown_leaf_must_be_decided_on():
    with pytest.raises(GatoError, match="parameter block/mystery: add 'mystery' to"):
        decay_mask({"block": {"mystery": jnp.ones(2)}})


def test_decay_shrinks_masked_leaves_without_gradient():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "table": jnp.ones((2, 2))}
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=0, decay_steps=10)
    optimizer = make_optimizer(config, steps=10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1)
    assert np.all(np.asarray(updates["bias"]) == 0)
    assert np.all(np.asarray(updates["table"]) == 0)


def test_gradients_are_clipped_by_their_global_norm():
    """Adam hides the scale of one gradient, so two steps of different size tell: clipped, they are the same."""
    params = {"kernel": jnp.ones(2)}
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, decay_steps=10, weight_decay=0.0)

    def second_update(scale):
        optimizer = make_optimizer(config, steps=10)
        state = optimizer.init(params)
        _, state = optimizer.update({"kernel": jnp.array([3.0, 4.0])}, state, params)
        updates, _ = optimizer.update({"kernel": jnp.array([3.0, -4.0]) * scale}, state, params)
        return updates["kernel"]

    np.testing.assert_allclose(second_update(1.0), second_update(100.0), rtol=1e-5)
    assert np.max(np.abs(second_update(1.0) - second_update(0.01))) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate must be > 0"),
        ({"decay_steps": 100}, "after the warm-up"),
        ({"final_fraction": 2.0}, r"optimizer.final_fraction must be in \[0, 1\]"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(GatoError, match=message):
        OptimizerConfig(**changes)


def test_run_shorter_than_its_warm_up_is_refused():
    with pytest.raises(GatoError, match=r"200 steps, but optimizer.warmup_steps is 15000"):
        learning_rate_schedule(OptimizerConfig(decay_steps=None), steps=200)
