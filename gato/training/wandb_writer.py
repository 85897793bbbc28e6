"""Metrics to Weights & Biases, for a run whose configuration names a project (``config.wandb``; the extra `wandb`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from gato.tokenizers.errors import GatoError
from gato.training.config import TrainConfig

ID_FILE = "wandb_id.txt"


class WandbError(GatoError):
    """The package is missing, or the service refuses."""


class WandbWriter:
    """Writes what `metrics.jsonl` gets to one run of the service; WANDB_MODE=offline keeps it in ``<run>/wandb``.

    A resumed run goes on in the same run of the service, whose id is kept in the run directory. The steps that the
    interrupted attempt did after its last checkpoint are sent again, and the service drops them: their losses are the
    same to the bit. It also drops a validation that is made up for at the step at which a run goes on. Where there was
    no checkpoint, what starts from scratch may have another configuration, and is another run there.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, resume_step: int) -> None:
        """Raises `WandbError` if the package is not there or the service cannot be used."""
        try:
            import wandb
        except ImportError as error:
            raise WandbError(
                f"wandb={config.wandb}: the package wandb is not installed; run `pip install wandb`, or leave "
                "config.wandb out"
            ) from error
        path = run_dir / ID_FILE
        if not resume_step or not path.exists():
            path.write_text(secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(
                project=config.wandb,
                id=path.read_text().strip(),
                name=run_dir.name,
                dir=run_dir,
                config=config.to_json(),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise WandbError(
                f"wandb={config.wandb}: {error}; run `wandb login`, or set WANDB_MODE=offline to send it later"
            ) from error

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One step; what is not known is left out."""
        self._run.log({name: value for name, value in metrics.items() if value is not None}, step=step)

    def close(self) -> None:
        """Waits until everything is sent, or written."""
        self._run.finish()
