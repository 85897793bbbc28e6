"""The parts of our pages that show scores: every task, the domains in a few figures, what failed, and the films."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gato.evaluation.page import section
from gato.evaluation.paper_results import PAPER, PAPER_ALL, PaperDomain
from gato.evaluation.report_charts import Score, number, score_bars
from gato.evaluation.report_pictures import data_uri


def scores_section(summary: Mapping[str, Any]) -> str:
    """Every task on its own scale, by suite."""
    suites: dict[str, list[Score]] = {}
    for name, entry in summary["tasks"].items():
        suite, _, task = name.partition("/")
        score = Score(
            task=task or suite,
            agent=figure(entry.get("score")),
            low=figure(entry.get("low")),
            high=figure(entry.get("high")),
            random=figure(entry.get("random")),
            expert=figure(entry.get("expert")),
            specialist=entry.get("specialist"),
            undefined=entry.get("undefined", ""),
            controls={control: figure(value) for control, value in (entry.get("controls") or {}).items()},
        )
        suites.setdefault(suite, []).append(score)
    if not suites:
        return ""
    controls = sorted({name for scores in suites.values() for score in scores for name in score.controls})
    marks = [
        '<svg><rect width="18" height="10" y="1" rx="3" style="fill:var(--agent)"/></svg>agent, with its 95 % interval',
        '<svg><path d="M9 0l5 6l-5 6l-5 -6z" style="fill:var(--specialist)"/></svg>specialist, a small network a task',
        "<b>random</b> scores 0, <b>expert</b> (the demonstrator) 100",
    ]
    if controls:
        ring = '<svg><circle cx="9" cy="6" r="4.5" style="fill:none;stroke:var(--soft);stroke-width:1.8"/></svg>'
        marks.append(f"{ring}the agent without what it needs: {html.escape(', '.join(controls).replace('_', ' '))}")
    if any(PAPER[suite].mean is not None for suite in suites if suite in PAPER):
        bar = '<svg><rect width="18" height="10" y="1" rx="3" style="fill:var(--random)"/></svg>'
        marks.append(f"{bar}the mean of such tasks in the paper, with its own experts and environments")
    body: list[str] = []
    means = summary.get("suites") or {}
    for suite, scores in suites.items():
        paper = PAPER.get(suite)
        if paper is not None and paper.mean is not None:
            scores.append(_paper_row(suite, paper))
        mean = f" · mean {number(means[suite])}" if means.get(suite) is not None else ""
        body.append(f"<h3>{html.escape(suite)}{mean}</h3>{score_bars(scores, axis_names=not body)}")
    episodes = sorted({int(entry["episodes"]) for entry in summary["tasks"].values() if entry.get("episodes")})
    count = (
        f" over {episodes[0]}" if len(episodes) == 1 else f" over {episodes[0]} to {episodes[-1]}" if episodes else ""
    )
    return section(
        "Scores",
        f"Each task on its own scale from random to expert{count} episodes on seeds that no demonstration used. The "
        "figures at the right are the agent's and the expert's own.",
        f'<ul class="key">{"".join(f"<li>{mark}</li>" for mark in marks)}</ul><div class="card">{"".join(body)}</div>',
    )


def films_section(folder: Path, summary: Mapping[str, Any]) -> str:
    """The films of the summary's tasks in a folder, ``<suite>__<task>.gif``."""
    figures = []
    for name, entry in sorted(summary["tasks"].items()):
        path = folder / f"{name.replace('/', '__')}.gif"
        if not path.is_file():
            continue
        score = f"score {number(figure(entry.get('score')))}, expert {number(figure(entry.get('expert')))}"
        image = data_uri(path.read_bytes(), "image/gif")
        figures.append(
            f'<figure><img src="{image}" alt="the agent acting in {html.escape(name)}">'
            f"<figcaption>{html.escape(name)}<span>{score}</span></figcaption></figure>"
        )
    if not figures:
        return ""
    return section(
        "The agent at work",
        "The first evaluation episode of each task, whether it went well or not.",
        f'<div class="gallery">{"".join(figures)}</div>',
    )


def domains_section(summary: Mapping[str, Any]) -> str:
    """Mean and interquartile mean of each domain and of everything, beside what the paper reached there."""
    domains: Mapping[str, Any] = summary.get("domains") or {}
    if not any(domain["tasks"] for domain in domains.values()):
        return ""
    shown = [(suite, domain, PAPER.get(suite)) for suite, domain in domains.items()]
    if len(shown) > 1:
        shown.append(("all tasks", summary["all"], PAPER_ALL))
    head = ("", "mean [95 %]", "IQM [95 %]", "above half of the expert", "no scale", "paper, mean", "paper, above half")
    rows = "".join(f"<th>{name}</th>" for name in head)
    for name, domain, paper in shown:
        cells = [
            f"{number(figure(domain[key]))} [{number(figure(domain[key + '_low']))}, "
            f"{number(figure(domain[key + '_high']))}]"
            for key in ("mean", "iqm")
        ]
        cells += [f"{domain['above_half']} of {domain['tasks']}", str(domain["undefined"] or "")]
        cells.append(number(paper.mean) if paper and paper.mean is not None else "")
        cells.append(f"{paper.above_half} of {paper.tasks}" if paper and paper.above_half is not None else "")
        rows += f"</tr><tr><td>{html.escape(name)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return section(
        "Domains",
        "Normalised scores, each task weighing the same: the mean, and the mean of the middle half of the tasks (IQM). "
        "Intervals draw the episodes again within each task. The paper's figures are those of its 1.18B network with "
        "its own experts and environments: a rough comparison.",
        f'<div class="card"><table><tr>{rows}</tr></table></div>',
    )


def failures_section(summary: Mapping[str, Any]) -> str:
    """Environments that raised, crashed, hung or could not be drawn; nothing where none did."""
    rows = ""
    for name, entry in summary["tasks"].items():
        lines = [
            (name, entry),
            *((f"{name} [{k}]", e) for k, e in (summary.get("controls") or {}).get(name, {}).items()),
        ]
        for line, found in lines:
            if found.get("failures") or found.get("lost") or found.get("no_film"):
                counts = ", ".join(f"{count} {kind}" for kind, count in (found.get("failures") or {}).items())
                lost = f"{found['lost']} lost: {found['lost_because']}" if found.get("lost") else "none lost"
                film = f"no film: {found['no_film']}" if found.get("no_film") else ""
                cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (line, counts, lost, film))
                rows += f"<tr>{cells}</tr>"
    if not rows:
        return ""
    return section(
        "Environments that failed",
        "An environment that raised an error, showed what is no number, crashed or hung was built anew and its episode "
        "repeated, and so were the episodes beside it in the same process. An episode that failed three times is lost: "
        "it has no score. What cannot be drawn is played all the same, without a film.",
        f'<div class="card"><table>{rows}</table></div>',
    )


def how_section(summary: Mapping[str, Any]) -> str:
    """How each task was played: its prompt, the length of its episodes, and how sure the network was."""
    head = "<tr><th>task</th><th>prompt</th><th>episodes</th><th>mean steps</th><th>entropy, nats a token</th></tr>"
    rows = ""
    for name, entry in summary["tasks"].items():
        figures = (str(entry["episodes"]), *(number(figure(entry.get(key))) for key in ("mean_steps", "entropy")))
        words = "".join(f"<td>{html.escape(cell)}</td>" for cell in (name, str(entry.get("prompt", ""))))
        rows += f"<tr>{words}" + "".join(f'<td class="n">{cell}</td>' for cell in figures) + "</tr>"
    return section(
        "How it was played",
        "The prompt is a demonstration of the task. The entropy is that of the network's distribution over the legal "
        "values of an action's tokens: 0 where it is sure, log(number of values) where it knows nothing.",
        f"<details><summary>all tasks</summary><table>{head}{rows}</table></details>",
    )


def _paper_row(suite: str, paper: PaperDomain) -> Score:
    """The paper's mean of the domain as a bar of its own."""
    assert paper.mean is not None
    return Score(
        f"mean of {paper.tasks} tasks in the paper", paper.mean, paper.mean, paper.mean, 0.0, 100.0, paper=True
    )


def figure(value: float | None) -> float:
    """A number of a summary, where null is NaN."""
    return math.nan if value is None else float(value)
