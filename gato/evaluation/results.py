"""What an evaluation keeps of every finished job, so that it can go on after an interruption, and its summary of them.

<folder>/jobs/<key>.json   one finished job: its episodes, or its captions, and what decided them; the key is a hash of
                           that
<folder>/gifs/*.gif        the first episode of each task, <suite>__<task>.gif
<folder>/summary.json      scores, see `scores`
<folder>/episodes.jsonl    every episode
<folder>/pictures/*.png    what the first captions and answers are about, <source>__<number>.png
<folder>/captions.json     samples of them
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.atomic_file import replace_file
from gato.data_pipelines.environments.registry import get_task, versions
from gato.evaluation.demonstrations import EvaluationError
from gato.evaluation.jobs import Job, Line, PlayJob, Result, Work, Written
from gato.evaluation.prompts import PromptSource
from gato.evaluation.report_pictures import write_gif, write_png
from gato.evaluation.rollouts import Outcome
from gato.evaluation.scores import summarise, task_entry
from gato.training.manifest import FILE as MANIFEST

Record = dict[str, Any]


class Journal:
    """The finished jobs in a folder."""

    def __init__(self, folder: Path, work: Work) -> None:
        self._folder, self._work = folder, work
        self._checkpoint = hashlib.sha256((work.checkpoint / MANIFEST).read_bytes()).hexdigest()
        self._used: set[Path] = set()
        self._abouts: dict[Job, Record] = {}

    def load(self, job: Job) -> Record | None:
        """The record of a job that was finished under this very protocol, checkpoint and prompts."""
        path = self._path(job)
        self._used.add(path)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def save(self, job: Job, result: Result) -> Record:
        """Writes what a job gave, films and pictures first: a record says that everything of its job is there."""
        record: Record
        if isinstance(result, Written):
            name = result.source.replace("/", "__")
            for number, picture in enumerate(result.pictures):
                write_png(picture, self._folder / "pictures" / f"{name}__{number}.png")
            samples = [
                {
                    "image": f"pictures/{name}__{number}.png",
                    "expected": sample["reference"],
                    "answer": sample["text"],
                    "source": result.source,
                    "question": sample.get("question", ""),
                }
                for number, sample in enumerate(result.scores["samples"])
            ]
            scores = {key: value for key, value in result.scores.items() if key != "samples"}
            record = {"scores": scores, "samples": samples}
        else:
            for outcome in result:
                film = self._folder / "gifs" / f"{outcome.entry.replace('/', '__')}.gif"
                if outcome.frames is not None:
                    write_gif(list(outcome.frames), film)
                elif outcome.no_film:
                    film.unlink(missing_ok=True)  # of another checkpoint
            record = {
                "outcomes": [
                    {field.name: getattr(outcome, field.name) for field in dataclasses.fields(Outcome)[:-1]}
                    for outcome in result
                ]
            }
        path = self._path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(record | {"about": self._about(job)}, allow_nan=False))
        return record

    def refuse_loss(self, jobs: Sequence[Job]) -> None:
        """Raises EvaluationError if the folder holds results, or finished jobs of an evaluation that was interrupted,
        which these jobs would not replace by the same of another checkpoint: of lines or sources that are not among
        them, or played under other conditions.
        """
        now = {name: about["conditions"] for job in jobs for about in [self._about(job)] for name in about["names"]}
        before = list(self._before())
        lost = list(dict.fromkeys(name for about in before for name in about["names"] if name not in now))
        if lost:
            raise EvaluationError(
                f"{self._folder}: holds results of {', '.join(lost[:3])}{' and more' if len(lost) > 3 else ''}, which "
                "this evaluation leaves out and would delete; give --out DIR for this one's"
            )
        changed: dict[str, str] = {}
        for about in before:
            then = about["conditions"]
            for key, value in (item for name in about["names"] for item in now[name].items()):
                if then.get(key, value) != value:
                    changed[key] = f"{key} {then[key]} instead of {value}"
        if changed:
            words = list(changed.values())
            raise EvaluationError(
                f"{self._folder}: holds an evaluation with {', '.join(words[:5])}{' and more' if words[5:] else ''}, "
                "which this one would replace; give --out DIR for this one's, or delete summary.json and jobs/ there"
            )

    def _before(self) -> Iterator[Record]:
        """What `_about` says of all that lies in the folder."""
        path = self._folder / "summary.json"
        try:
            if path.exists():
                summary = json.loads(path.read_text(encoding="utf-8"))
                names = [*summary["tasks"], *summary["captions"]]
                yield {"names": names, "conditions": summary["protocol"]}
            for path in sorted((self._folder / "jobs").glob("*.json")):
                yield json.loads(path.read_text(encoding="utf-8"))["about"]
        except (ValueError, KeyError, TypeError) as error:
            what = "summary" if path.name == "summary.json" else "job"
            raise EvaluationError(
                f"{path}: is no evaluation's {what} ({error!r}); delete it or give --out DIR"
            ) from error

    def forget_others(self) -> None:
        """Deletes the jobs of other evaluations that the folder held before."""
        for path in (self._folder / "jobs").glob("*.json"):
            if path not in self._used:
                path.unlink()

    def _about(self, job: Job) -> Record:
        """Of what a job gives results, and everything that decides them beside the checkpoint and the job itself."""
        if job not in self._abouts:  # asking the packages takes a while
            self._abouts[job] = self._describe(job)
        return self._abouts[job]

    def _describe(self, job: Job) -> Record:
        conditions: Record = dataclasses.asdict(self._work.protocol)
        if not isinstance(job, PlayJob):
            return {"names": [job.source], "conditions": conditions}
        for task in dict.fromkeys(line.task for line in job.lines):
            prompt = self._work.prompts.get(task, PromptSource())
            known = get_task(task)
            conditions |= {f"max_steps of {task}": known.max_steps, f"metric of {task}": known.metric}
            conditions |= versions(task)
            shown = ", ".join(map(str, prompt.episodes))
            conditions[f"prompts of {task}"] = f"{prompt.fingerprint[:16]} ({shown})" if prompt.store else "none"
        names = [f"{line.name} (specialist)" if job.specialist else line.name for line in job.lines]
        return {"names": names, "conditions": conditions}

    def _path(self, job: Job) -> Path:
        key = json.dumps([_plain(job), self._about(job), self._checkpoint])
        return self._folder / "jobs" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _plain(value: Any) -> Record:
    return {"kind": type(value).__name__, **dataclasses.asdict(value)}


def summarise_jobs(records: Sequence[tuple[Job, Record]], work: Work, order: Sequence[str]) -> Record:
    """``summary.json`` of finished jobs; ``order``: the tasks as they are to be listed."""
    seed = work.protocol.seed
    played: dict[tuple[str, bool], list[Outcome]] = {}
    lines: dict[str, Line] = {}
    written: Record = {}
    for job, record in records:
        if isinstance(job, PlayJob):
            lines |= {line.name: line for line in job.lines}
            for outcome in record["outcomes"]:
                played.setdefault((outcome["entry"], job.specialist), []).append(Outcome(**outcome))
        else:
            written[job.source] = record["scores"]
    entries: Record = {}
    controls: dict[str, Record] = {}
    scores: dict[str, np.ndarray] = {}
    for line in sorted(lines.values(), key=lambda line: (order.index(line.task), line.control)):
        task, outcomes = get_task(line.task), sorted(played[line.name, False], key=lambda outcome: outcome.seed)
        finished = [outcome for outcome in outcomes if not outcome.lost]
        values = [outcome.score(task.metric) for outcome in finished]
        rival = [o.score(task.metric) for o in played.get((line.name, True), ()) if not o.lost]
        entry = task_entry(
            values, task.random_score, task.expert_score, metric=task.metric, specialist=rival or None, seed=seed
        )
        entry |= _failures(outcomes)
        if line.control:
            entries[line.task].setdefault("controls", {})[line.control] = entry["score"]
            controls.setdefault(line.task, {})[line.control] = entry
            continue
        for name, field in (("mean_return", "score_return"), ("mean_steps", "steps"), ("entropy", "entropy")):
            found = [getattr(outcome, field) for outcome in finished if getattr(outcome, field) is not None]
            entry[name] = float(np.mean(found)) if found else None
        entry["prompt"] = work.prompts.get(line.task, PromptSource()).origin
        no_film = [outcome.no_film for outcome in outcomes if outcome.no_film]
        entry |= {"no_film": no_film[0]} if no_film else {}
        entries[line.task], scores[line.task] = entry, np.array(values)
    every = [outcome for outcomes in played.values() for outcome in outcomes]
    summary = {**summarise(entries, scores, seed), "controls": controls, "captions": written}
    return summary | _failures(every) | {"protocol": dataclasses.asdict(work.protocol)}


def _failures(outcomes: Sequence[Outcome]) -> Record:
    counts = Counter[str]()
    for outcome in outcomes:
        counts.update(outcome.failures)
    lost = [outcome.lost for outcome in outcomes if outcome.lost]
    return {"failures": dict(sorted(counts.items())), "lost": len(lost)} | ({"lost_because": lost[0]} if lost else {})


def write_results(folder: Path, summary: Mapping[str, Any], records: Sequence[tuple[Job, Record]]) -> None:
    """Writes `summary`, every episode and the samples of captions."""
    folder.mkdir(parents=True, exist_ok=True)
    samples, episodes = [], []
    for job, record in records:
        samples += record.get("samples", [])
        policy = "specialist" if isinstance(job, PlayJob) and job.specialist else "agent"
        for outcome in record.get("outcomes", ()):
            line = {"policy": policy, "task": outcome["entry"], "return": outcome["score_return"]}
            episodes.append(line | {key: outcome[key] for key in outcome if key not in ("entry", "score_return")})
    replace_file(folder / "captions.json", json.dumps({"samples": samples}))
    replace_file(folder / "episodes.jsonl", "".join(json.dumps(episode) + "\n" for episode in episodes))
    replace_file(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
