"""Devices with too little memory: what to change, in the place of XLA's traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from gato.tokenizers.errors import GatoError
from gato.training.config import TrainConfig


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
        if "Shared memory" in str(error):
            raise OutOfMemoryError(
                f"a fused GPU kernel needs more of a multiprocessor's memory than this GPU has ({_first_line(error)}): "
                f'set model.attention="xla" (now "{config.model.attention}")'
            ) from error
        raise OutOfMemoryError(
            f"not enough memory on a device ({_first_line(error)}): raise accumulate (now "
            f'{config.accumulate}), set model.remat="full" (now "{config.model.remat}"), give mesh more fsdp (now '
            f"{config.mesh.fsdp}) or lower batch_size (now {config.batch_size}). Once there is a checkpoint, only "
            "model.remat and mesh may change; see docs/pods.md"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
