"""Charts of the report as inline SVG, drawn here: no plotting package, no script, colours from the page's style.

Every function returns a string of SVG. Colours are the CSS variables of `report.css`, so that one picture serves the
light and the dark page; exact numbers are in the ``<title>`` that a browser shows under the pointer.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Mapping, Sequence

from gato.data_pipelines.durations import duration
from gato.evaluation.scores import normalise

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Score:
    """One task's row in the score chart. All figures in the task's own units (success rate or return).

    `undefined` says why there is no normalised score, where there is none; `paper` marks a bar that is not ours.
    """

    task: str
    agent: float
    low: float
    high: float
    random: float
    expert: float
    specialist: float | None = None
    controls: Mapping[str, float] = dataclasses.field(default_factory=dict)
    undefined: str = ""
    paper: bool = False

    def normalised(self, value: float) -> float:
        return normalise(value, self.random, self.expert)


def number(value: float) -> str:
    """A figure at the precision that a reader needs: 0.62, 18.4, 960."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def score_bars(scores: Sequence[Score], axis_names: bool = True, width: int = 900, row: int = 34) -> str:
    """One row a task on the normalised scale: bar = agent with its interval, diamond = specialist, ring = a control.

    `axis_names` writes "random" and "expert" above the axis, which the first of several charts needs.
    """
    label, figures = 210, 150
    left, right = label, width - figures
    head = 22 if axis_names else 4
    height = head + row * len(scores)

    def x(percent: float) -> float:
        return left + (right - left) * (min(max(percent, -10.0), 115.0) + 10) / 125

    out = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="normalised score of each task">']
    for tick, name in ((0, "random"), (50, "50"), (100, "expert")):
        style = "axis" if tick != 50 else "grid"
        out.append(f'<line class="{style}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{head - 4}" y2="{height}"/>')
        if axis_names:
            out.append(f'<text class="tick" x="{x(tick):.1f}" y="12" text-anchor="middle">{name}</text>')
    for i, score in enumerate(scores):
        out.append(_score_row(score, x, head + row * (i + 0.5) - 2, width))
    return "\n".join([*out, "</svg>"])


def _score_row(score: Score, x: Callable[[float], float], y: float, width: int) -> str:
    """The row of one task around height `y`; `x` places a normalised score."""
    tip = [f"{score.task}: agent {number(score.agent)} [{number(score.low)}, {number(score.high)}]"]
    tip.append(f"random {number(score.random)}, expert {number(score.expert)}")
    if score.specialist is not None:
        tip.append(f"specialist {number(score.specialist)}")
    tip += [f"{name} {number(value)}" for name, value in score.controls.items()]
    out = [f"<title>{html.escape('; '.join(tip))}</title>"]
    out.append(f'<text class="label" x="0" y="{y + 4:.1f}">{html.escape(score.task)}</text>')
    agent, low, high = (score.normalised(v) for v in (score.agent, score.low, score.high))
    if not math.isfinite(agent):
        note = html.escape(f"undefined: {score.undefined}" if score.undefined else "undefined")
        out.append(f'<text class="tick" x="{x(2):.1f}" y="{y + 4:.1f}">{note}</text>')
    else:
        start, end = sorted((x(0), x(agent)))
        size = f'width="{max(end - start, 1.5):.1f}" height="12"'
        kind = "paper" if score.paper else "agent"
        out.append(f'<rect class="{kind}" x="{start:.1f}" y="{y - 6:.1f}" {size} rx="3"/>')
        whisker = f"M{x(low):.1f} {y:.1f}H{x(high):.1f}" + "".join(f"M{x(v):.1f} {y - 4:.1f}v8" for v in (low, high))
        out.append(f'<path class="whisker" d="{whisker}"/>')
        if score.specialist is not None:
            top = f"{x(score.normalised(score.specialist)):.1f} {y - 7:.1f}"
            out.append(f'<path class="specialist" d="M{top}l6 7l-6 7l-6 -7z"/>')
        for value in score.controls.values():
            out.append(f'<circle class="control" cx="{x(score.normalised(value)):.1f}" cy="{y:.1f}" r="5"/>')
    figures = f"{number(score.agent)} of {number(score.expert)}"
    out.append(f'<text class="figure" x="{width}" y="{y + 4:.1f}" text-anchor="end">{figures}</text>')
    return f"<g>{''.join(out)}</g>"


def smooth(points: Points, count: int = 160) -> list[tuple[float, float]]:
    """At most `count` points, each the mean of its neighbours; non-finite values are left out."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = max(1, math.ceil(len(finite) / count))
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def line_chart(
    title: str,
    lines: Mapping[str, Points],
    dashed: Mapping[str, Points] | None = None,
    width: int = 440,
    height: int = 240,
) -> str:
    """Lines over the training step; `dashed` lines (validation) share the colour of the line of the same name.

    The vertical axis starts at zero when the data come near it, and each line carries its name at its end: no legend.
    """
    dashed = dashed or {}
    drawn = {name: smooth(points) for name, points in lines.items()}
    drawn_dashed = {name: smooth(points) for name, points in dashed.items()}
    every = [p for points in (*drawn.values(), *drawn_dashed.values()) for p in points]
    if not every:
        return ""
    left, right, top, bottom = 40, width - 128, 28, height - 26
    x_high = max(x for x, _ in every) or 1.0
    # The first steps are far above the rest and would flatten it: the axis ends at the value after the first twentieth.
    later = [y for x, y in every if x >= 0.05 * x_high] or [y for _, y in every]
    y_low, y_high = min(later), max(later)
    y_low = 0.0 if y_low < 0.5 * y_high else y_low - 0.1 * (y_high - y_low or 1.0)
    y_high = y_high + 0.05 * (y_high - y_low or 1.0)

    def at(value: float) -> float:
        return bottom - (bottom - top) * (min(value, y_high) - y_low) / (y_high - y_low)

    def place(points: Points) -> str:
        return "M" + "L".join(f"{left + (right - left) * px / x_high:.1f} {at(py):.1f}" for px, py in points)

    out = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">']
    out.append(f'<text class="title" x="0" y="14">{html.escape(title)}</text>')
    for tick in ticks(y_low, y_high):
        ty = at(tick)
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{ty:.1f}" y2="{ty:.1f}"/>')
        out.append(f'<text class="tick" x="{left - 6}" y="{ty + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text class="tick" x="{left}" y="{height - 8}">0</text>')
    out.append(f'<text class="tick" x="{right}" y="{height - 8}" text-anchor="end">{x_high:,.0f} steps</text>')
    ends: list[tuple[float, int, str, float]] = []
    for index, (name, points) in enumerate(drawn.items()):
        if not points:
            continue
        tip = f"{name}: {number(points[0][1])} → {number(points[-1][1])}"
        out.append(f'<path class="line s{index % 8}" d="{place(points)}"><title>{html.escape(tip)}</title></path>')
        if drawn_dashed.get(name):
            held = drawn_dashed[name]
            tip = f"{name}, held out: {number(held[-1][1])}"
            out.append(
                f'<path class="line dashed s{index % 8}" d="{place(held)}"><title>{html.escape(tip)}</title></path>'
            )
        ends.append((at(points[-1][1]), index, name, points[-1][1]))
    for y_end, index, name, value in _spread(ends, top, bottom):
        # The whole name is under the pointer; at the line's end there is room for its last part.
        short = name if len(name) <= 14 else name.rpartition("/")[2][:14]
        text = f"{short} {number(value)}"
        out.append(f'<text class="name t{index % 8}" x="{right + 6}" y="{y_end + 3.5:.1f}">{html.escape(text)}</text>')
    return "\n".join([*out, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values in [low, high]."""
    span = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(span))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _spread(
    ends: list[tuple[float, int, str, float]], top: float, bottom: float, gap: float = 12.5
) -> list[tuple[float, int, str, float]]:
    """Moves the names at the lines' ends apart so that none covers another."""
    placed = sorted(ends)
    for i in range(1, len(placed)):
        if placed[i][0] < placed[i - 1][0] + gap:
            placed[i] = (placed[i - 1][0] + gap, *placed[i][1:])
    over = placed[-1][0] - (bottom + 4) if placed else 0
    if over > 0:
        for i in range(len(placed) - 1, -1, -1):
            limit = bottom + 4 - gap * (len(placed) - 1 - i)
            placed[i] = (min(placed[i][0], limit), *placed[i][1:])
    return [(max(y, top - 12), *rest) for y, *rest in placed]  # type: ignore[misc]


def stage_bar(seconds: Mapping[str, float], width: int = 900) -> str:
    """One horizontal bar of the stages' shares of the time."""
    total = sum(seconds.values())
    if total <= 0:
        return ""
    out, x = [f'<svg class="chart" viewBox="0 0 {width} 58" role="img" aria-label="time of each stage">'], 0.0
    for index, (name, value) in enumerate(seconds.items()):
        share = width * value / total
        text = f"{name} {duration(value)}"
        out.append(
            f'<rect class="fill s{index % 8}" x="{x:.1f}" y="4" width="{max(share - 2, 1):.1f}" height="26" rx="3">'
        )
        out.append(f"<title>{html.escape(text)}</title></rect>")
        if share > 6.2 * len(text):
            out.append(f'<text class="tick" x="{x + 2:.1f}" y="48">{html.escape(text)}</text>')
        x += share
    return "".join([*out, "</svg>"])
