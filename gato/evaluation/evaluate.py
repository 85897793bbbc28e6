"""Evaluates a checkpoint: the prompted agent in the simulators of its tasks, beside controls, random and expert.

The protocol is the paper's (section 4.1): episodes on seeds that no demonstration used, each prompted with the
beginning of a successful demonstration, scored between random and expert. Prompts and memory are those of training
unless `Protocol` says otherwise. What comes out stands in `results`; the same call goes on where an interrupted one
stopped, job by job, with the same result.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gato.data_pipelines.environments.base import UnknownTaskError
from gato.data_pipelines.environments.registry import get_task, suite_names, suite_tasks
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.sources.captions import CAPTION_SPEC, QUESTION_SPEC
from gato.data_pipelines.worker_process import cores
from gato.evaluation.demonstrations import EvaluationError, open_demonstrations, run_directory
from gato.evaluation.evaluation_page import write_evaluation_page
from gato.evaluation.executors import get_executor
from gato.evaluation.jobs import Chosen, Protocol, Work, environment_spec, plan_jobs, size
from gato.evaluation.prompts import OF_EXPERT, PromptSource, ask_expert, find_prompts
from gato.evaluation.results import Journal, summarise_jobs, write_results
from gato.evaluation.simulators import STEP_SECONDS
from gato.inference.sampling import Sampling
from gato.inference.session import prompt_budget
from gato.recipes.recipe import RecipeError, get_recipe
from gato.tokenizers.errors import suggest
from gato.training.checkpoint import find_checkpoint, load_meta
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta
from gato.training.run_directory import CONFIG_FILE
from gato.training.run_lock import only_one
from gato.training.setup import enable_compilation_cache

DEFAULT_PROTOCOL = Protocol()
# Documents with pictures of which there are ever new ones.
ROOMS = {"captions/rooms": CAPTION_SPEC, "questions/rooms": QUESTION_SPEC}


def evaluate(
    checkpoint: Path | str,
    tasks: Sequence[str] | None = None,
    protocol: Protocol = DEFAULT_PROTOCOL,
    *,
    suites: Sequence[str] | None = None,
    prompts: Path | str | None = None,
    specialists: bool = False,
    out: Path | str | None = None,
    executor: str = "local",
    processes: int | None = None,
    simulators: int | None = None,
    step_seconds: float = STEP_SECONDS,
    progress: bool = True,
) -> dict[str, Any]:
    """Plays tasks and scores them.

    Args:
      checkpoint: run directory (its newest checkpoint) or one checkpoint.
      tasks: sources or tasks of the checkpoint, or other tasks (the agent meets them for the first time); with
        ``suites`` both are played; neither: all sources of the checkpoint.
      suites: names of suites, for all their tasks that the checkpoint has; all of them where it has none.
      protocol: what decides the results.
      prompts: folder with stores of demonstrations, see `find_prompts`.
      specialists: whether to train and play one specialist for each task whose data are there.
      out: where the results go; None: ``<run>/evaluation``.
      executor: "local" or "ray", see `executors`.
      processes: that act, each with its agent; None: one for each core, or a single one that has the accelerator; on
        Ray as many as the cluster has room for.
      simulators: processes for the environments of each acting one; None: what the cores allow, at least one (on Ray
        one); 0: none, an environment that crashes then takes the acting process down with it.
      step_seconds: for one step of an environment, before it counts as hanging.
      progress: whether to show it on stderr.

    Returns:
      What ``summary.json`` holds.

    Raises:
      EvaluationError: nothing to play, a protocol that contradicts itself, or `out` holds results that would be lost:
        of tasks that are left out now, or of another protocol.
      LockError: another evaluation in the same folder does not end.
      SamplingError, CheckpointError, AgentError, StoreError, MissingSuiteError, UnknownTaskError: see there.
    """
    _refuse_a_worker()
    if protocol.episodes < 1:
        raise EvaluationError(f"episodes must be at least 1, got {protocol.episodes}")
    if protocol.prompt == "none" and protocol.prompt_tokens is not None:
        raise EvaluationError(f"prompt_tokens is {protocol.prompt_tokens}, but prompt 'none' shows nothing: drop one")
    Sampling.of(protocol.temperature or 0.0, protocol.top_k, protocol.top_p)
    started = time.monotonic()
    enable_compilation_cache()
    found, run = find_checkpoint(checkpoint).absolute(), run_directory(Path(checkpoint).absolute())
    # The parameters are left to those who play: here they would take the memory of an accelerator that an actor of
    # the same machine needs.
    meta, folder = load_meta(found), results_folder(checkpoint, out)
    chosen = choose(meta, tasks, suites)
    prompt_budget(meta.length, protocol.memory, protocol.prompt_tokens)  # refused before anything is played
    local = executor == "local"
    if processes is None and local:
        processes = cores() if jax.default_backend() == "cpu" else 1
    if simulators is None:
        simulators = max(1, cores() // (processes or 1)) if local else 1
    # A task that is played as another one's source has nothing to be shown of that one.
    playing = {c.task: c.source if c.task == c.meta.task else "" for c in chosen if c.task}
    prompting = playing if protocol.prompt != "none" else {}
    given = Path(prompts).absolute() if prompts is not None else None
    shown = find_prompts(prompting, run, given) if prompting else {}
    jobs = plan_jobs(chosen, meta, protocol, _with_data(run, chosen) if specialists else [])
    execute = get_executor(executor)
    with only_one(folder, "evaluation"):  # makes the folder, so what can be refused before is
        for task in prompting:
            if task not in shown:
                shown[task] = ask_expert(task, folder / "prompts", min(processes or cores(), cores()), progress)
        _say_prompts(shown)
        work = Work(found, run, protocol, shown, simulators, step_seconds)
        journal = Journal(folder, work)
        journal.refuse_loss(jobs)
        records = {job: record for job in jobs if (record := journal.load(job)) is not None}
        waiting = [job for job in jobs if job not in records]
        done = sum(size(job, protocol) for job in records)
        total = done + sum(size(job, protocol) for job in waiting)
        with show_progress(total, "evaluating", progress and bool(waiting), done) as show:

            def advance(count: int) -> None:
                show(count, "evaluating")

            if waiting:
                for job, result in execute(waiting, work, min(processes or len(waiting), len(waiting)), advance):
                    records[job] = journal.save(job, result)
        ordered = [(job, records[job]) for job in jobs]
        summary = summarise_jobs(ordered, work, list(playing))
        summary |= {"checkpoint_step": meta.step, "seed": protocol.seed, "seconds": time.monotonic() - started}
        write_results(folder, summary, ordered)
        journal.forget_others()
        write_evaluation_page(folder, summary)
        return summary


def _refuse_a_worker() -> None:
    """Raises EvaluationError in a worker that runs its parent's script once more: it would wait for its parent's lock.

    `multiprocessing` recognises such a process in the same way, but only when it starts another.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise EvaluationError(
            "a process of the evaluation runs the script that started it; in the script put the call of evaluate() "
            'under `if __name__ == "__main__":`'
        )


def results_folder(checkpoint: Path | str, out: Path | str | None = None) -> Path:
    """Where the results of an evaluation go."""
    return Path(out).absolute() if out is not None else run_directory(Path(checkpoint).absolute()) / "evaluation"


def choose(meta: CheckpointMeta, tasks: Sequence[str] | None, suites: Sequence[str] | None) -> list[Chosen]:
    """What to evaluate, each task once.

    Raises:
      EvaluationError: a name that neither the checkpoint nor a suite knows, or nothing that can be evaluated.
      UnknownTaskError, MissingSuiteError, SuiteError: a task that nobody can play, or pictures that nobody can score.
    """
    known = meta.sources
    names = [name for suite in suites or () for name in _tasks_of(suite, known)]
    names += tasks or ()
    everything = tasks is None and suites is None
    chosen: dict[str, Chosen] = {}
    for name in known if everything else names:
        try:
            choice = _choose(known, name)
        except UnknownTaskError as error:
            if not everything:
                raise
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        if choice is not None:
            chosen.setdefault(choice.task or choice.source, choice)
    if not chosen:
        raise EvaluationError(f"nothing to play or to caption among {', '.join(names or known) or 'no sources'}")
    _refuse_untold(meta.recipe, chosen.values())
    _say_new(chosen.values())
    return list(chosen.values())


def _tasks_of(suite: str, known: Mapping[str, SourceMeta]) -> list[str]:
    """The checkpoint's sources of this suite; of a suite that is new to it, all tasks."""
    own = [name for name, source in known.items() if suite in (_suite(name), _suite(source.task))]
    if own:
        return own
    if suite not in suite_names():
        choices = sorted({*map(_suite, known), *suite_names()})
        raise EvaluationError(f"neither the checkpoint nor anybody has a suite {suite!r}; {suggest(suite, choices)}")
    return suite_tasks(suite)


def _suite(name: str) -> str:
    return name.partition("/")[0]


def _choose(known: Mapping[str, SourceMeta], name: str) -> Chosen | None:
    """None for documents without pictures: there is nothing to ask about them."""
    source = name if name in known else next((source for source, meta in known.items() if meta.task == name), None)
    if source is None:
        try:
            get_task(name)
        except UnknownTaskError as error:
            raise EvaluationError(
                f"{name!r} is neither in this checkpoint ({suggest(name, known)}) nor a task: {error}"
            ) from error
        return _new(known, name)
    meta = known[source]
    if meta.spec.kind == "document":
        if not any(leaf.modality == "image" for leaf in meta.spec.observations.values()):
            return None
        # Others have no more pictures than were imported, and no score: ours counts the objects of rendered rooms.
        if ROOMS.get(source) != meta.spec:
            raise UnknownTaskError(
                f"source {source!r} of the checkpoint has imported pictures, and only rendered ones "
                f"({', '.join(ROOMS)}) are scored; gato generate RUN --image=FILE --source={source} shows what it "
                "writes"
            )
        return Chosen(source, "", meta)
    if not meta.task:
        raise UnknownTaskError(
            f"source {source!r} of the checkpoint names no task; name one that plays it with --tasks SUITE/TASK, of "
            "`gato suites` or of a suite of your own, or import its data with a task: see the end of docs/data.md"
        )
    get_task(meta.task)  # its suite may be missing: say so before anything is played
    return Chosen(source, meta.task, meta)


def _new(known: Mapping[str, SourceMeta], task: str) -> Chosen:
    """A task that the checkpoint does not have: played as the first source of the same embodiment, if there is one."""
    spec = environment_spec(task)
    for source, meta in known.items():
        if meta.spec == spec:
            return Chosen(source, task, meta)
    return Chosen("", task, SourceMeta(spec, task))


def _refuse_untold(recipe: str, chosen: Iterable[Chosen]) -> None:
    """Raises EvaluationError: a task that the recipe cannot condition on anything, found before any is played."""
    for choice in chosen:
        if choice.task:
            try:
                get_recipe(recipe).conditioning(choice.meta.statistics).start()
            except RecipeError as error:
                raise EvaluationError(
                    f"{choice.task}: its embodiment is new to this checkpoint, and an evaluation has no target for it: "
                    f"leave the task out, or let an Agent act there ({error})"
                ) from None


def _say_new(chosen: Iterable[Chosen]) -> None:
    new: dict[str, list[str]] = {}
    for choice in chosen:
        if choice.task and (not choice.source or choice.task != choice.meta.task):
            new.setdefault(choice.source, []).append(choice.task)
    for source, tasks in new.items():
        how = f"new to this checkpoint; played with what it knows of {source}'s embodiment"
        print(f"{_few(tasks)}: {how if source else 'a new embodiment for this checkpoint'}", file=sys.stderr)


def _with_data(run: Path, chosen: Iterable[Chosen]) -> list[str]:
    """The sources that a specialist can be trained on; a line says which tasks have none."""
    found = list(open_demonstrations(run, missing="skip")) if (run / CONFIG_FILE).is_file() else []
    without = [choice.task for choice in chosen if choice.task and choice.source not in found]
    if without:
        print(f"{_few(without)}: no specialist, the run's {CONFIG_FILE} leads to no data for it", file=sys.stderr)
    return found


def _say_prompts(shown: dict[str, PromptSource]) -> None:
    asked = [task for task, source in shown.items() if source.origin == OF_EXPERT]
    if asked:
        print(f"no demonstrations in the run: shown some that the experts give now: {_few(asked)}", file=sys.stderr)
    without = [task for task, source in shown.items() if not source.store]
    if without:
        why = shown[without[0]].origin
        print(f"{_few(without)}: played without a prompt ({why}); --prompts=DIR gives some", file=sys.stderr)


def _few(tasks: Sequence[str]) -> str:
    return f"{', '.join(tasks[:3])}{f' and {len(tasks) - 3} more' if len(tasks) > 3 else ''}"
