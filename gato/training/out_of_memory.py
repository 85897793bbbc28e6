"""Devices with too little memory: what to change, in the place of XLA's traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from gato.tokenizers.errors import GatoError
from gato.training.config import TrainConfig

SHARED = "Shared memory"  # of a GPU's multiprocessor; XLA says so where a kernel needs more
LESS_SHARED = 'a fused kernel needs more of a multiprocessor\'s memory than this GPU has: set model.attention="xla"'


class OutOfMemoryError(GatoError):
    """A device cannot hold the state or what a step computes with."""


@contextlib.contextmanager
def levers_named(config: TrainConfig) -> Iterator[None]:
    """Turns the lack of a device's memory inside into an `OutOfMemoryError` that names what decides over it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if SHARED in str(error):
            raise OutOfMemoryError(f"{_first_line(error)}: {LESS_SHARED}") from error
        raise OutOfMemoryError(
            f"not enough memory on a device ({_first_line(error)}): raise accumulate (now "
            f'{config.accumulate}), set model.remat="full" (now "{config.model.remat}"), give mesh more fsdp (now '
            f"{config.mesh.fsdp}) or lower batch_size (now {config.batch_size}). Once there is a checkpoint, only "
            "model.remat and mesh may change; see docs/pods.md"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
