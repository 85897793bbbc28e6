"""Where the demonstrations that an evaluation prompts with come from.

In this order: the folder that the user names; the stores that the run was trained on, held-out episodes before others;
the task's own expert, asked for a few. Where none of them has any, the agent acts without a prompt and the evaluation
says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from gato.data_pipelines.collect import CollectError, CollectPlan, collect
from gato.data_pipelines.environments.base import ExpertError, NoExpert, SuiteError
from gato.data_pipelines.environments.registry import get_task
from gato.data_pipelines.episode import Episode
from gato.data_pipelines.store import Store
from gato.evaluation.demonstrations import Demonstrations, EvaluationError, open_demonstrations, successful
from gato.evaluation.rollouts import PROMPTS
from gato.tokenizers.errors import SpecError
from gato.training.run_directory import CONFIG_FILE

NONE, OF_EXPERT = "none", "of the task's expert, collected for this"


@dataclasses.dataclass(frozen=True)
class PromptSource:
    """The demonstrations of one task: episodes of a store, by number; none where ``store`` is "".

    Attributes:
      origin: in words, for the report.
      fingerprint: of the store.
    """

    store: str = ""
    episodes: tuple[int, ...] = ()
    origin: str = NONE
    fingerprint: str = ""

    def load(self) -> Sequence[Episode | None]:
        """The demonstrations, at least one; None stands for acting without one."""
        if not self.store:
            return [None]
        store = Store(Path(self.store))
        return [store.episode(index) for index in self.episodes]


def find_prompts(tasks: Mapping[str, str], run: Path, given: Path | None = None) -> dict[str, PromptSource]:
    """Task -> its demonstrations, of those tasks that have some; writes nothing.

    Args:
      tasks: task -> the source of the checkpoint that it is, or "".
      run: run directory, whose ``config.json`` names the stores; it may have none.
      given: stores in folders ``given/suite/task``, as ``gato collect`` writes them.

    Raises:
      EvaluationError: ``given`` holds no store of any of the tasks.
    """
    found: dict[str, PromptSource] = {}
    if given is not None:
        for task in tasks:
            if (given / task).is_dir():
                found[task] = _chosen(Store(given / task), None, str(given))
        if not found:
            raise EvaluationError(
                f"{given}: holds no store of {', '.join(list(tasks)[:3])}; its folders should be called so, as "
                "`gato collect` writes them"
            )
    demonstrations = open_demonstrations(run, missing="skip") if (run / CONFIG_FILE).is_file() else {}
    for task, source in tasks.items():
        if task not in found and source in demonstrations:
            found[task] = _of_run(demonstrations[source])
    return found


def _of_run(demonstrations: Demonstrations) -> PromptSource:
    if len(demonstrations.held_out):
        return _chosen(demonstrations.store, demonstrations.held_out.tolist(), "held out from training")
    return _chosen(demonstrations.store, demonstrations.train.tolist(), "of the training")


def ask_expert(task: str, folder: Path, processes: int, progress: bool) -> PromptSource:
    """A few that the task's expert gives now; kept in `folder`, so that the evaluation can go on with the same ones."""
    if isinstance(get_task(task).expert, NoExpert):
        return PromptSource(origin=f"{NONE}: it has no expert")
    try:
        collect([CollectPlan(task, PROMPTS)], folder, processes=processes, progress=progress)
        return _chosen(Store(folder / task), None, OF_EXPERT)
    except (ExpertError, CollectError, SpecError, SuiteError) as error:  # an agent acts without one, too
        return PromptSource(origin=f"{NONE}: {error}")


def _chosen(store: Store, episodes: Sequence[int] | None, origin: str) -> PromptSource:
    indices = successful(store, range(len(store)) if episodes is None else episodes, PROMPTS)
    return PromptSource(str(store.path), tuple(indices), origin, store.fingerprint)
