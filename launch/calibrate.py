"""How long a training step takes on this machine, measured on the run's own batches."""

from __future__ import annotations

import time

import jax

from gato.training.config import TrainConfig
from gato.training.setup import build

WARM_STEPS = 3


def seconds_per_step(config: TrainConfig, seconds: float) -> float:
    """Mean wall-clock seconds of a step after compilation, over about `seconds`; the parameters are thrown away.

    The compiled step stays in the compilation cache, so the run that follows does not compile it again.
    """
    setup = build(config)
    state, batches = setup.initial_state(), iter(setup.loader)
    steps, began = -WARM_STEPS, time.perf_counter()
    while True:
        state, metrics = setup.train_step(state, setup.put(next(batches)))
        jax.block_until_ready(metrics)
        steps += 1
        if steps == 0:
            began = time.perf_counter()
        elif steps > 0 and time.perf_counter() - began >= seconds:
            return (time.perf_counter() - began) / steps
