"""The training step as a pure function of (state, batch), and its jitted form with explicit shardings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gato.model.transformer import GatoModel
from gato.training.loss import LossSums, sparse_loss
from gato.training.optimizer import schedule_step

Batch = Mapping[str, Any]
Loss = Callable[[Any, Batch, dict[str, jax.Array]], LossSums]


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes. No random key: keys are a function of (seed, name, step)."""

    step: jax.Array  # int32 [], updates made so far
    params: Any
    opt_state: Any


@struct.dataclass
class StepMetrics:
    """Device values of one step, read by the host one step later."""

    sums: LossSums
    gradient_norm: jax.Array  # [], before clipping
    learning_rate: jax.Array  # [], of this update
    finite: jax.Array  # bool [], of loss, weight and gradient; if not, parameters and optimizer stayed as they were


def step_key(seed: int, name: str, step: jax.Array | int) -> jax.Array:
    """The key of one use (`name`) of randomness at one step: fold_in(fold_in(root, name), step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


def batch_loss(
    model: GatoModel,
    params: Any,
    batch: Batch,
    rngs: dict[str, jax.Array] | None = None,
    *,
    vocabulary_size: int,
    sources: int,
) -> LossSums:
    """Loss sums of a batch; with `rngs` in training mode (dropout, sampled patch positions), without in evaluation
    mode.

    `params` are the model's variables, as `init_params` makes them.
    """
    hidden_GND: Any = model.apply(params, batch, train=rngs is not None, hidden_at=batch["target_index"], rngs=rngs)

    def head(hidden_nD: jax.Array) -> Any:
        return model.apply(params, hidden_nD, method="logits")

    with jax.named_scope("loss"):
        return sparse_loss(
            head,
            hidden_GND,
            batch,
            vocabulary_size=vocabulary_size,
            table_size=model.config.vocabulary_size,
            sources=sources,
        )


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int,
    accumulate: int = 1,
    param_shardings: Any = None,
    unroll_patches: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The pure step.

    Gradients are of the *sum* of the loss and are divided by the sum of the weights once, after those of all
    micro-batches were added: a mean of means would weigh a token by how many others its micro-batch happens to have.

    A step whose loss or gradient is not finite changes nothing but the step's number.

    Args:
      loss: (params, batch, rngs) -> sums; `batch_loss` with its model and sizes filled in.
      optimizer, schedule: of `make_optimizer`; the schedule is the optimizer's own, for the metrics.
      seed: of dropped paths, dropout and patch positions.
      accumulate: micro-batches that a batch is cut into, worked on one after the other.
      param_shardings: where the gradients lie, `sharding.param_shardings`; None: where the compiler likes.
      unroll_patches: micro-batches with image patches are written out, not looped over. For CPUs, whose XLA computes a
        convolution's gradient inside a loop 70 times slower; it costs their compilation time.
    """

    def gradient_sums(params: Any, batch: Batch, rngs: dict[str, jax.Array]) -> tuple[Any, LossSums]:
        def loss_sum(params: Any) -> tuple[jax.Array, LossSums]:
            sums = loss(params, batch, rngs)
            return sums.loss, sums

        gradients, sums = jax.grad(loss_sum, has_aux=True)(params)
        if param_shardings is not None:
            # Said here, each device gets the sum of its own part only (a reduce-scatter), not of everything.
            gradients = jax.lax.with_sharding_constraint(gradients, param_shardings)
        return gradients, sums

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        rngs = {name: step_key(seed, name, state.step) for name in ("dropout", "position")}
        if accumulate == 1:
            gradients, sums = gradient_sums(state.params, batch, rngs)
        else:

            def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:
                number, part = numbered
                own = {name: jax.random.fold_in(key, number) for name, key in rngs.items()}
                return jax.tree.map(jnp.add, total, gradient_sums(state.params, part, own)), None

            parts = micro_batches(batch, accumulate)
            first = jax.tree.map(lambda array: array[0], parts)
            shapes = jax.eval_shape(gradient_sums, state.params, first, rngs)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            if param_shardings is not None:
                zeros = (jax.lax.with_sharding_constraint(zeros[0], param_shardings), zeros[1])
            unroll = accumulate if unroll_patches and batch["patches"].size else 1
            (gradients, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), parts), unroll=unroll)
        scale = 1.0 / jnp.where(sums.weight > 0, sums.weight, 1.0)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            gradient_norm = optax.tree.norm(gradients)
            finite = jnp.isfinite(sums.loss) & jnp.isfinite(sums.weight) & jnp.isfinite(gradient_norm)
            # The host reads of it a step later; by then a state that took it in would be lost.
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
            )
        learning_rate = jnp.asarray(schedule(schedule_step(state.opt_state)))
        metrics = StepMetrics(sums=sums, gradient_norm=gradient_norm, learning_rate=learning_rate, finite=finite)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def make_evaluation(loss: Callable[[Any, Batch], LossSums], accumulate: int = 1) -> Callable[[Any, Batch], LossSums]:
    """(params, batch) -> loss sums of the batch, `accumulate` micro-batches one after the other, as in a training step:
    where that fits, this does.

    Args:
      loss: (params, batch) -> sums in evaluation mode.
    """

    def evaluate(params: Any, batch: Batch) -> LossSums:
        if accumulate == 1:
            return loss(params, batch)
        parts = micro_batches(batch, accumulate)
        shapes = jax.eval_shape(loss, params, jax.tree.map(lambda array: array[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, loss(params, part)), None), zeros, parts
        )
        return total

    return evaluate


def micro_batches(batch: Batch, count: int) -> dict[str, jax.Array]:
    """[G, ...] or [B, ...] -> [count, G / count, ...] or [count, B / count, ...]: every count-th group.

    A device holds neighbouring groups, so this way each micro-batch has a part on every device and nothing moves.
    """
    groups = batch["target_index"].shape[0]

    def split(array: jax.Array) -> jax.Array:
        size = array.shape[0] // groups
        array = array.reshape(groups // count, count, size, *array.shape[1:]).swapaxes(0, 1)
        return array.reshape(count, groups // count * size, *array.shape[3:])  # -1 fails without patches

    return {name: split(array) for name, array in batch.items()}
