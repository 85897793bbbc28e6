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
    learning_rate: jax.Array  # []


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
    hidden_ND: Any = model.apply(params, batch, train=rngs is not None, hidden_at=batch["target_index"], rngs=rngs)

    def head(hidden_nD: jax.Array) -> Any:
        return model.apply(params, hidden_nD, method="logits")

    with jax.named_scope("loss"):
        return sparse_loss(
            head,
            hidden_ND,
            batch,
            vocabulary_size=vocabulary_size,
            table_size=model.config.vocabulary_size,
            sources=sources,
        )


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, schedule: optax.Schedule, *, seed: int
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The pure step.

    Gradients are of the *sum* of the loss and are divided by the sum of the weights once, so that sums over
    micro-batches can be accumulated before the division.

    Args:
      loss: (params, batch, rngs) -> sums; `batch_loss` with its model and sizes filled in.
      optimizer, schedule: the schedule is the optimizer's own, for the metrics.
      seed: of dropped paths, dropout and patch positions.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        rngs = {name: step_key(seed, name, state.step) for name in ("dropout", "position")}

        def loss_sum(params: Any) -> tuple[jax.Array, LossSums]:
            sums = loss(params, batch, rngs)
            return sums.loss, sums

        gradients, sums = jax.grad(loss_sum, has_aux=True)(state.params)
        scale = 1.0 / jnp.where(sums.weight > 0, sums.weight, 1.0)
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(
            sums=sums, gradient_norm=optax.tree.norm(gradients), learning_rate=jnp.asarray(schedule(state.step))
        )
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step
