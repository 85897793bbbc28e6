"""The part of our pages that shows what a network wrote about pictures: scores beside shuffled images, and samples."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gato.evaluation.page import section
from gato.evaluation.report_charts import number
from gato.evaluation.report_pictures import data_uri
from gato.evaluation.report_scores import figure

METRICS = {"object_f1": "F1 of the objects named", "accuracy": "right answers"}


def caption_metric(score: Mapping[str, Any]) -> str:
    """The one of `METRICS` that a source of captions or questions is scored by."""
    return "object_f1" if "object_f1" in score else "accuracy"


def captions_section(folder: Path, summary: Mapping[str, Any], samples: Iterable[Mapping[str, str]]) -> str:
    """``samples`` as in ``<folder>/captions.json``: image (a path in the folder, or a data URI), question, expected,
    answer.
    """
    figures, scores = [], []
    for source, score in (summary.get("captions") or {}).items():
        metric = caption_metric(score)
        interval = f"[{number(figure(score.get('low')))}, {number(figure(score.get('high')))}]"
        shuffled = f"with shuffled images {number(figure(score.get(f'shuffled_{metric}')))}"
        cells = (f"{html.escape(source)}: {METRICS[metric]}", f"{number(figure(score[metric]))} {interval}", shuffled)
        scores.append("<tr>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>")
    for sample in samples:
        image = sample["image"]
        if not image.startswith("data:"):
            image = data_uri((folder / image).read_bytes(), "image/png")
        right = sample["answer"].strip() == sample["expected"].strip()
        verdict = "right" if right else "wrong"
        question = f"<span>{html.escape(sample['question'])}</span>" if sample.get("question") else ""
        truth = "" if right else f"<span>expected: {html.escape(sample['expected'])}</span>"
        figures.append(
            f'<figure><img src="{image}" alt="{html.escape(sample["expected"])}"><figcaption>{question}'
            f'<b class="{verdict}">{html.escape(sample["answer"])}</b>{truth}</figcaption></figure>'
        )
    if not figures:
        return ""
    table = f'<div class="card"><table>{"".join(scores)}</table></div>' if scores else ""
    return section(
        "What it sees",
        "Captions and answers for held-out scenes, as the network wrote them; green where every word is right.",
        f'{table}<div class="gallery captions">{"".join(figures)}</div>',
    )
