"""One step of the tiny preset: golden numbers, and gradients only where the weights say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.tokenizers.layout import KINDS
from gato.training.loss import LossSums, dense_loss
from gato.training.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer
from gato.training.step import TrainState, batch_loss, make_train_step, micro_batches, step_key

SOURCES = 3
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, decay_steps=10)


@pytest.fixture(scope="module")
def config():
    return preset("tiny", stochastic_depth=0.1)


@pytest.fixture(scope="module")
def params(config):
    return jax.jit(lambda: init_params(config, step_key(0, "parameters", 0)))()


@pytest.fixture(scope="module")
def gradient(config):
    """Gradient of the mean loss in evaluation mode, jitted once: (params, batch) -> (sums, gradient)."""

    def mean(params, batch):
        sums = batch_loss(GatoModel(config), params, batch, vocabulary_size=3076, sources=SOURCES)
        return sums.mean(), sums

    return jax.jit(lambda params, batch: jax.grad(mean, has_aux=True)(params, batch)[::-1])


GOLDEN = {
    "loss": 8.4238,
    "text": 8.6926,
    "action": 8.2753,
    "source_0": 8.4501,
    "gradient_norm": 1.8863,
    "loss_after": 7.6073,
}
HOW_TO_JUDGE = """
Golden numbers of one step changed. If you did not mean to change the initial values, the loss, the model's arithmetic,
the random keys or the optimizer, there is a bug. If you did mean to, judge the new numbers: the first loss is about
ln(3,076) = 8.03 plus half the variance of the logits (8.5), text and action near it; the loss after two steps is lower;
the norm of the gradient is of order one. Then copy them from this message into GOLDEN and say why in the commit.
"""


def test_golden_metrics_of_one_step(config, params, make_batch, vocabulary):
    optimizer = make_optimizer(OPTIMIZER, steps=10)
    loss = functools.partial(batch_loss, GatoModel(config), vocabulary_size=vocabulary.size, sources=SOURCES)
    step = make_train_step(loss, optimizer, learning_rate_schedule(OPTIMIZER, 10), seed=0)
    jitted = jax.jit(step)
    state = TrainState(step=jnp.int32(0), params=params, opt_state=optimizer.init(params))
    batch = make_batch()
    state, first = jitted(state, batch)
    state, _ = jitted(state, batch)
    state, third = jitted(state, batch)
    sums = first.sums
    found = {
        "loss": sums.mean(),
        "text": sums.kind_loss[KINDS.index("text")] / sums.kind_weight[KINDS.index("text")],
        "action": sums.kind_loss[KINDS.index("action")] / sums.kind_weight[KINDS.index("action")],
        "source_0": sums.source_loss[0] / sums.source_weight[0],
        "gradient_norm": first.gradient_norm,
        "loss_after": third.sums.mean(),
    }
    found = {name: round(float(value), 4) for name, value in found.items()}
    message = f"{HOW_TO_JUDGE}\nfound: {found}"
    assert found == pytest.approx(GOLDEN, rel=2e-3), message
    assert float(first.learning_rate) == pytest.approx(1e-7)
    assert int(state.step) == 3


def test_target_of_weight_zero_has_no_influence(params, gradient, make_batch):
    batch = make_batch()
    sums, expected = gradient(params, batch)
    changed = dict(batch)
    changed["target_weight"] = batch["target_weight"].copy()
    changed["target_weight"][0, 3] = 0
    _, without = gradient(params, changed)
    changed["target_ids"] = batch["target_ids"].copy()
    changed["target_ids"][0, 3] = (batch["target_ids"][0, 3] + 1) % 3000
    again_sums, again = gradient(params, changed)
    jax.tree.map(np.testing.assert_array_equal, without, again)
    assert float(again_sums.weight) < float(sums.weight)
    # The test has teeth: with its weight, the same target does matter.
    changed["target_weight"] = batch["target_weight"]
    _, with_weight = gradient(params, changed)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (expected, with_weight))))


def test_embedding_gradient_is_confined_to_inputs_and_head(params, gradient, make_batch):
    """Without a target, nothing has a gradient; with targets, padding tokens still have none."""
    batch = make_batch()
    silent = {**batch, "target_weight": np.zeros_like(batch["target_weight"])}
    _, nothing = gradient(params, silent)
    assert optax.tree.norm(nothing) == 0
    moved = {**batch, "ids": np.where(batch["segment_ids"] == 0, 17, batch["ids"]).astype(np.int32)}
    jax.tree.map(np.testing.assert_array_equal, gradient(params, batch), gradient(params, moved))


def test_sparse_head_equals_dense_head_through_the_model(config, params, gradient, make_batch, vocabulary):
    batch = make_batch()
    model = GatoModel(config)

    @jax.jit
    def dense(params):
        def mean(params):
            hidden_BLD = model.apply(params, batch)
            head = lambda hidden: model.apply(params, hidden, method="logits")  # noqa: E731
            sums = dense_loss(head, hidden_BLD, batch, vocabulary_size=vocabulary.size, sources=SOURCES)
            return sums.mean(), sums

        return jax.grad(mean, has_aux=True)(params)[::-1]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient(params, batch), dense(params)
    )


def test_after_a_skipped_step_the_reported_learning_rate_is_the_one_that_was_used(params, make_batch):
    """The schedule is the size of every update here, so the parameters themselves tell which rate it was."""
    optimizer, schedule = make_optimizer(OPTIMIZER, 10), learning_rate_schedule(OPTIMIZER, 10)

    def loss(params, batch, rngs):
        total = batch["scale"] * sum(leaf.sum() for leaf in jax.tree.leaves(params))
        return LossSums(total, jnp.ones(()), *[jnp.zeros(1)] * 4)

    step = jax.jit(make_train_step(loss, optimizer, schedule, seed=0))
    start = {"bias": jnp.zeros((3,))}  # a name that is not decayed
    state = TrainState(jnp.int32(0), start, optimizer.init(start))
    rates, moved = [], []
    for scale in (1.0, np.nan, 1.0, 1.0):
        before = np.asarray(state.params["bias"])
        state, metrics = step(state, {"scale": np.float32(scale)})
        rates.append(float(metrics.learning_rate))
        moved.append(float((before - np.asarray(state.params["bias"]))[0]))
    assert [round(rate / 1e-3) for rate in rates] == [0, 5, 5, 10]  # the warm-up's two steps, one of them tried twice
    assert moved[1] == 0
    np.testing.assert_allclose([moved[0], *moved[2:]], [rates[0], *rates[2:]], rtol=1e-3)  # Adam's first moves are ±1


def test_keys_differ_by_name_step_and_seed():
    keys = {
        tuple(np.asarray(jax.random.key_data(step_key(*use))).tolist())
        for use in ((0, "dropout", 0), (0, "position", 0), (0, "dropout", 1), (1, "dropout", 0))
    }
    assert len(keys) == 4


def test_a_bfloat16_step_is_near_the_float32_step_and_keeps_float32_parameters(config, params, make_batch):
    schedule, batch = learning_rate_schedule(OPTIMIZER, 10), make_batch()
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model, optimizer = GatoModel(config.replace(dtype=dtype)), make_optimizer(OPTIMIZER, 10)
        loss = functools.partial(batch_loss, model, vocabulary_size=3076, sources=SOURCES)
        state = TrainState(jnp.int32(0), params, optimizer.init(params))
        step = jax.jit(make_train_step(loss, optimizer, schedule, seed=0))
        losses[dtype] = []
        for _ in range(3):
            state, metrics = step(state, batch)
            losses[dtype].append(float(metrics.sums.mean()))
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize(
    ("groups", "accumulate", "unroll"), [(4, 1, False), (4, 2, False), (4, 2, True), (8, 4, False)]
)
def test_groups_and_micro_batches_take_the_same_step(params, make_batch, group_batch, groups, accumulate, unroll):
    """Also with rows of very different weight: a mean of means would be another number."""
    config = preset("tiny")
    batch = make_batch(rows=8)
    batch["target_weight"] *= np.where(batch["target_index"] // 64 < 3, 5, 1)
    batch["loss_weight"] *= np.where(np.arange(8) < 3, 5, 1)[:, None]
    starts = np.array([0, 64, 3, 90])[batch["patch_index"] % 4]  # intervals of one number: nothing is drawn
    batch["patch_intervals"] = np.stack([starts, starts + 1, starts, starts + 1], -1).astype(np.int16)
    optimizer, schedule = make_optimizer(OPTIMIZER, 10), learning_rate_schedule(OPTIMIZER, 10)
    loss = functools.partial(batch_loss, GatoModel(config), vocabulary_size=3076, sources=SOURCES)

    def two_steps(batch, accumulate):
        state = TrainState(jnp.int32(1), params, optimizer.init(params))
        step = jax.jit(make_train_step(loss, optimizer, schedule, seed=0, accumulate=accumulate, unroll_patches=unroll))
        state, _ = step(state, batch)
        state, metrics = step(state, batch)
        return state, metrics

    state, metrics = two_steps(group_batch(batch, groups), accumulate)
    expected_state, expected = two_steps(batch, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), state.params, expected_state.params)


def test_micro_batches_take_a_part_of_every_device():
    batch = {
        "ids": np.arange(24).reshape(12, 2),
        "target_index": np.arange(6)[:, None],
        "patches": np.zeros((6, 0, 16)),
    }
    parts = micro_batches(batch, 3)
    assert parts["patches"].shape == (3, 2, 0, 16), "no patches are no reason to fail"
    assert parts["target_index"][..., 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert parts["ids"][1, :, 0].tolist() == [4, 6, 16, 18]
