"""The demonstrations of a run: which stores it was trained on, and which of their episodes it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gato.data_pipelines.episode import Episode
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
        if not len(self.held_out):
            return [None] * count
        good: list[Episode] = []
        failed: list[Episode] = []
        for index in self.held_out:
            episode = self.store.episode(int(index))
            (good if episode.metadata.get("success", True) else failed).append(episode)
            if len(good) == count:
                break
        chosen = good or failed
        return [chosen[i % len(chosen)] for i in range(count)]


def run_directory(path: Path | str) -> Path:
    """The run directory of a run or of one of its checkpoints."""
    path = Path(path)
    return next((folder for folder in (path, *path.parents) if (folder / CONFIG_FILE).is_file()), path)


def open_demonstrations(run: Path | str) -> dict[str, Demonstrations]:
    """Source name -> its demonstrations, from the run's ``config.json``.

    Raises:
      EvaluationError: no configuration there. ConfigError: a damaged one. StoreError: a store was moved or damaged.
    """
    folder = run_directory(run)
    if not (folder / CONFIG_FILE).is_file():
        raise EvaluationError(
            f"{run}: no {CONFIG_FILE} in it: prompts come from the data that it names; give a run directory"
        )
    config = read_config(folder)
    opened = (Demonstrations(source, config.seed) for source in config.sources)
    return {demonstrations.store.name: demonstrations for demonstrations in opened}
