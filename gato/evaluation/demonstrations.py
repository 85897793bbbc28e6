"""The demonstrations of a run: which stores it was trained on, and which of their episodes it never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gato.data_pipelines import filters
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store import Store
from gato.tokenizers.errors import GatoError
from gato.training.config import TrainConfig


class EvaluationError(GatoError):
    """An evaluation was asked for what the run cannot give."""


class Demonstrations:
    """The episodes of one source, split as training split them.

    Attributes:
      store: where they lie.
      train, held_out: int64, ascending indices into the store.
    """

    def __init__(self, config: SourceConfig, seed: int) -> None:
        self.store = Store(config.path)
        kept = np.arange(len(self.store))
        if config.expert_filter is not None and self.store.spec.kind != "document":
            kept = kept[filters.keep_expert(self.store.returns, self.store.groups, config.expert_filter)]
        self.train, self.held_out = filters.hold_out(kept, config.held_out_episodes, seed, self.store.name)

    def prompts(self, count: int) -> Sequence[Episode | None]:
        """``count`` held-out demonstrations, successful ones, repeated where there are fewer; None without any."""
        if not len(self.held_out):
            return [None] * count
        episodes = [self.store.episode(int(index)) for index in self.held_out[:count]]
        good = [episode for episode in episodes if episode.metadata.get("success", True)] or episodes
        return [good[i % len(good)] for i in range(count)]


def run_directory(path: Path) -> Path:
    """The run directory of a run or of one of its checkpoints."""
    return next((folder for folder in (path, *path.parents) if (folder / "config.json").is_file()), path)


def open_demonstrations(run: Path) -> dict[str, Demonstrations]:
    """Source name -> its demonstrations, from the run's ``config.json``.

    Raises:
      EvaluationError: no configuration there. StoreError: a store was moved or damaged.
    """
    path = run_directory(run) / "config.json"
    try:
        config = TrainConfig.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise EvaluationError(
            f"{run}: no config.json in it: prompts come from the data that it names; give a run directory"
        ) from None
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); restore the file that training wrote") from error
    opened = (Demonstrations(source, config.seed) for source in config.sources)
    return {demonstrations.store.name: demonstrations for demonstrations in opened}
