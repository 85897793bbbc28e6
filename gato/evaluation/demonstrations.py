"""The demonstrations of a run: which stores it was trained on, and which of their episodes it never saw."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.errors import StoreError
from gato.data_pipelines.mixture import SourceConfig, split_episodes
from gato.data_pipelines.store import Store
from gato.tokenizers.errors import GatoError
from gato.training.run_directory import CONFIG_FILE, read_config


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
        episodes = split_episodes(self.store, config, seed)
        self.train, self.held_out = episodes["train"], episodes["held_out"]

    def prompts(self, count: int) -> Sequence[Episode | None]:
        """``count`` held-out demonstrations: successful ones where there are any, repeated where there are fewer.

        None for each where nothing was held out.
        """
        chosen = [self.store.episode(index) for index in successful(self.store, self.held_out.tolist(), count)]
        return [chosen[i % len(chosen)] for i in range(count)] if chosen else [None] * count


def successful(store: Store, episodes: Sequence[int], most: int) -> list[int]:
    """The first of ``episodes`` that succeeded, at most ``most``; those that failed where none succeeded."""
    good: list[int] = []
    for index in episodes:
        if store.episode(index, 0, 1).metadata.get("success", True):
            good.append(index)
            if len(good) == most:
                break
    return good or list(episodes[:most])


def run_directory(path: Path | str) -> Path:
    """The run directory of a run or of one of its checkpoints."""
    path = Path(path)
    return next((folder for folder in (path, *path.parents) if (folder / CONFIG_FILE).is_file()), path)


def open_demonstrations(run: Path | str, missing: Literal["raise", "skip"] = "raise") -> dict[str, Demonstrations]:
    """Source name -> its demonstrations, from the run's ``config.json``.

    Args:
      missing: what to do about a store that was moved or damaged.

    Raises:
      EvaluationError: no configuration there. ConfigError: a damaged one. StoreError: see ``missing``.
    """
    folder = run_directory(run)
    if not (folder / CONFIG_FILE).is_file():
        raise EvaluationError(
            f"{run}: no {CONFIG_FILE} in it: prompts come from the data that it names; give a run directory"
        )
    config = read_config(folder)
    opened: dict[str, Demonstrations] = {}
    for source in config.sources:
        with contextlib.suppress(*((StoreError,) if missing == "skip" else ())):
            demonstrations = Demonstrations(source, config.seed)
            opened[demonstrations.store.name] = demonstrations
    return opened
