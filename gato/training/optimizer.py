"""AdamW with warm-up and cosine decay, at the paper's numbers (Reed et al. 2022, appendix C).

Weight decay falls on the kernels of linear and convolution layers only. Not on the embedding table: it is tied with
the head, and the rows of rare tokens, which get little gradient, would shrink towards zero by the decay alone; nor on
position tables, for the same reason; nor on biases, the norms' scales and the relative-attention biases, which have no
scale that decay could usefully limit. The mask goes by the leaf's name: with scanned layers every leaf has a leading
layer axis, so a rule by the number of dimensions would decay the biases.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gato.tokenizers.errors import GatoError

# Names of the model's leaves. One that stands in neither set is an error: somebody has to decide.
DECAYED = frozenset({"kernel", "query", "key", "value", "relative", "out", "gate", "down"})
NOT_DECAYED = frozenset(
    {"table", "local_positions", "action_position", "patch_rows", "patch_columns", "scale", "bias", "u", "v"}
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Numbers of the optimizer; the defaults are Gato's pre-training of the 79M and 1.18B models.

    Attributes:
      learning_rate: the maximum, reached at the end of the warm-up.
      initial_learning_rate: at step 0.
      warmup_steps: linear warm-up.
      decay_steps: step (counted from 0, warm-up included) at which the cosine ends; ``None``: the run's last step.
      final_fraction: the cosine ends at ``learning_rate * final_fraction``; 1.0 keeps the rate constant after the
        warm-up.
      clip_norm: gradients are scaled down to this global norm (the paper is silent; ours).
    """

    learning_rate: float = 1e-4
    initial_learning_rate: float = 1e-7
    warmup_steps: int = 15_000
    decay_steps: int | None = 1_000_000
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        def refuse(field: str, rule: str) -> None:
            raise GatoError(f"optimizer.{field} must be {rule}, got {getattr(self, field)}")

        for field in ("learning_rate", "clip_norm", "epsilon"):
            if not getattr(self, field) > 0:
                refuse(field, "> 0")
        if not 0 <= self.final_fraction <= 1:
            refuse("final_fraction", "in [0, 1]")
        if self.warmup_steps < 0:
            refuse("warmup_steps", ">= 0")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            refuse("decay_steps", f"after the warm-up ({self.warmup_steps} steps)")
        if not 0 <= self.initial_learning_rate <= self.learning_rate:
            refuse("initial_learning_rate", f"between 0 and learning_rate ({self.learning_rate})")


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step (number of updates already made) -> learning rate. `steps` is the run's length."""
    decay_steps = steps if config.decay_steps is None else config.decay_steps
    if decay_steps <= config.warmup_steps:
        raise GatoError(
            f"the run has {steps} steps, but optimizer.warmup_steps is {config.warmup_steps}: "
            "lengthen the run or shorten the warm-up"
        )
    first, peak, warmup = config.initial_learning_rate, config.learning_rate, config.warmup_steps
    final = peak * config.final_fraction

    # Not optax's schedule: its warm-up subtracts from the maximum and loses the first steps' digits in float32.
    def schedule(step: Any) -> jax.Array:
        rising = first + (peak - first) * (step / max(warmup, 1))
        done = jnp.clip((step - warmup) / (decay_steps - warmup), 0.0, 1.0)
        falling = final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return jnp.where(step < warmup, rising, falling)

    return schedule


def decay_mask(params: Any) -> Any:
    """Pytree of booleans like `params`: True on the leaves that weight decay falls on.

    Raises:
      GatoError: a leaf's name is in neither of the two sets.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = str(path[-1].key)
        if name not in DECAYED | NOT_DECAYED:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise GatoError(f"parameter {where}: add {name!r} to DECAYED or NOT_DECAYED in gato.training.optimizer")
        return name in DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)


def schedule_step(opt_state: Any) -> jax.Array:
    """int32 []: the step that the learning rate of the next update goes by, from the state of `make_optimizer`'s
    transformation. A skipped step leaves it where it was."""
    return optax.tree.get(opt_state, "ScaleByScheduleState").count


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with the schedule and the decay mask."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )
