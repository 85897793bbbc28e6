"""The jitted steps of a run and where its state lies: what training and planning share. No data are read here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gato import sharding
from gato.fields import ConfigError
from gato.model.attention import platform
from gato.model.transformer import GatoModel, init_params
from gato.training.config import TrainConfig
from gato.training.loss import LossSums
from gato.training.optimizer import learning_rate_schedule, make_optimizer
from gato.training.step import StepMetrics, TrainState, batch_loss, make_evaluation, make_train_step, step_key

BatchLoss = Callable[..., LossSums]  # as `batch_loss`


@dataclasses.dataclass
class Steps:
    """Compiled at their first call, or by ``train_step.lower(abstract state, abstract batch)``.

    Attributes:
      groups: of rows in the global batch: `accumulate` for each part that the mesh splits a batch into.
      state_shardings: a `TrainState` of shardings.
      train_step: (state, batch) -> (state, metrics); the state's buffers are donated.
      class_losses: number of classes in ``target_source`` -> ((params, batch) -> loss sums), each a program of its own.
      create_state: the state of step 0, traceable.
    """

    mesh: Mesh
    groups: int
    state_shardings: Any
    train_step: Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, StepMetrics]]
    class_losses: Callable[[int], Callable[[Any, Mapping[str, jax.Array]], LossSums]]
    create_state: Callable[[], TrainState]


def make_steps(
    config: TrainConfig, mesh: Mesh, *, vocabulary_size: int, sources: int, loss: BatchLoss = batch_loss
) -> Steps:
    """The steps of a run on `mesh`, whose devices need not be of this machine.

    Args:
      vocabulary_size: ids that are no padding of the table. sources: of the mixture.
      loss: another one only to compare with.

    Raises:
      ConfigError: the batch does not divide over the mesh and the micro-batches.
    """
    parts = sharding.batch_parts(mesh)
    groups = parts * config.accumulate
    if config.batch_size % groups:
        raise ConfigError(
            f"batch_size {config.batch_size} must be a multiple of {groups}: {parts} parts on the mesh (data x fsdp), "
            f"each in {config.accumulate} micro-batches (accumulate)"
        )
    model = GatoModel(config.model, mesh)
    schedule = learning_rate_schedule(config.optimizer, config.steps)
    optimizer = make_optimizer(config.optimizer, config.steps)
    sums = functools.partial(loss, model, vocabulary_size=vocabulary_size)

    def create_state() -> TrainState:
        params = init_params(config.model, step_key(config.seed, "parameters", 0))
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    param_shardings = sharding.param_shardings(config.model, mesh)
    shardings = sharding.state_shardings(jax.eval_shape(create_state), param_shardings, mesh)
    whole = sharding.replicated(mesh)
    # Batches come in a few static shapes, and `Setup.put` has placed them: their shardings are the arguments' own.
    train_step = jax.jit(
        make_train_step(
            functools.partial(sums, sources=sources),
            optimizer,
            schedule,
            seed=config.seed,
            accumulate=config.accumulate,
            param_shardings=param_shardings if mesh.size > 1 else None,
            unroll_patches=platform(mesh) == "cpu",
        ),
        in_shardings=(shardings, None),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )

    def class_losses(classes: int) -> Any:
        of_classes = functools.partial(sums, sources=classes)
        evaluate = make_evaluation(of_classes, config.accumulate)
        return jax.jit(evaluate, in_shardings=(shardings.params, None), out_shardings=whole)

    return Steps(mesh, groups, shardings, train_step, class_losses, create_state)
