"""One page that shows what a store holds: frames, actions over time, tokens with their loss, and how rows are packed.

People look at this before they spend a pod-week.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gato.data_pipelines.check import DISTINCT, LISTED, LeafReport, StoreReport, check_store
from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.mixture import SourceConfig, open_sources
from gato.data_pipelines.rows import BEGIN, END, PROMPT_BEGIN, PROMPT_END, Rows
from gato.data_pipelines.store import Store
from gato.evaluation.page import header, page, section
from gato.evaluation.report_charts import number, ticks
from gato.evaluation.report_pictures import describe_tokens, png_uri, token_card
from gato.tokenizers.errors import GatoError
from gato.tokenizers.layout import Layout
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

FRAMES, SHOWN_EPISODES, SHOWN_ACTIONS, SHOWN_ROWS, SHOWN_TOKENS = 8, 3, 8, 16, 1024
ACTION_STEPS = 1000  # of the curves
CHECKED = 500  # episodes, for the statistics


def write_data_page(paths: Sequence[Path], out: Path, length: int = 1024, text_model: Path | None = None) -> Path:
    """Writes the page of some stores and returns its path.

    Args:
      length: tokens in a row, for the picture of the packing.
      text_model: SentencePiece model; None: the one that is shipped.

    Raises:
      StoreError: a path is no store.
      MixtureError: rows of this length cannot be packed; the page is written all the same, with the refusal in it.
    """
    text = TextTokenizer.load(text_model)
    vocabulary = Vocabulary(text.size)
    tokenizer = SequenceTokenizer(vocabulary, text, Layout())
    reports = [check_store(path, CHECKED) for path in paths]
    tiles = [
        (f"{sum(report.episodes for report in reports):,}", "episodes and documents"),
        (f"{sum(report.timesteps for report in reports):,}", "timesteps"),
        (_size(sum(report.bytes for report in reports)), "on the disk"),
        (
            f"{sum(report.violated for report in reports):,}",
            f"bad episodes (of {sum(r.checked for r in reports):,} read)",
        ),
    ]
    sections = [header("Data", "What the stores hold, and what the network will read of them.", tiles)]
    refused = []
    for report in reports:
        store = Store(report.path)
        shown = min(SHOWN_EPISODES, len(store))
        chosen = [k * len(store) // shown for k in range(shown)]
        body = [
            _statistics(report),
            *(_unless_damaged(_frames, store, index) for index in chosen),
            _unless_damaged(_actions, store, chosen[0]),
            _unless_damaged(functools.partial(_tokens, tokenizer, text), store, chosen[0]),
        ]
        try:
            body.append(_packing(report.path, tokenizer, length))
        except GatoError as error:
            body.append(f'<div class="card"><h3>Rows</h3><p class="note">{html.escape(str(error))}</p></div>')
            if isinstance(error, MixtureError):  # the settings are wrong; damage is listed with the statistics
                refused.append(str(error))
        sections.append(section(store.name, f"{report.path}", "".join(part for part in body if part)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page("Data", sections), encoding="utf-8")
    if refused:
        more = f" (and so for {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise MixtureError(f"{refused[0]}{more}; {out} is written, without the rows")
    return out


def _size(size: int) -> str:
    """Bytes as a reader wants them: 12 kB, 3.4 GB."""
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if size >= s), (1e3, "kB"))
    return f"{size / scale:,.0f} {unit}" if size >= 10 * scale else f"{size / scale:,.1f} {unit}"


def _count(value: float) -> str:
    """A whole number without decimals; a median may lie between two."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _range(leaf: LeafReport) -> str:
    if not np.isfinite(leaf.low):
        return "–"
    low, high = map(number if leaf.spec.modality == "continuous" else _count, (leaf.low, leaf.high))
    return (low if low == high else f"{low} … {high}") + (" characters" if leaf.spec.modality == "text" else "")


def _statistics(report: StoreReport) -> str:
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in ("leaf", "kind", "shape", "range", "notes")) + "</tr>"]
    for leaf in report.leaves:
        notes = []
        if leaf.constant == leaf.dimensions:
            notes.append("always the same")
        elif leaf.constant:
            notes.append(f"{leaf.constant} of {leaf.dimensions} never change")
        if leaf.not_finite:
            notes.append(f"{leaf.not_finite:.2%} NaN or infinite")
        if leaf.outside:
            notes.append(f"{leaf.outside:.2%} outside the range")
        if leaf.saturated:
            notes.append(f"{leaf.saturated:.2%} saturated")
        if leaf.distinct is not None and leaf.constant < leaf.dimensions:
            notes.append(f"{leaf.distinct:,}{' or more' if leaf.distinct == DISTINCT else ''} different values")
        cells = (
            leaf.name,
            leaf.spec.modality,
            "x".join(map(str, leaf.spec.shape)) or "–",
            _range(leaf),
            "; ".join(notes),
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    listed = report.violations[:LISTED]
    bad = "".join(f'<p class="note">bad: {html.escape(message)}</p>' for _, message in listed)
    lengths = " … ".join(_count(report.lengths[k]) for k in (0, 2, 4))
    returns = " … ".join(number(report.returns[k]) for k in (0, 2, 4))
    about = f"lengths {lengths} timesteps, returns {returns} (lowest, median, highest)"
    about += f"; {html.escape(str(report.metadata['fps']))} frames a second" if "fps" in report.metadata else ""
    return f'<div class="card"><table>{"".join(rows)}</table><p class="note">{about}</p>{bad}</div>'


def _unless_damaged(draw: Callable[[Store, int], str], store: Store, index: int) -> str:
    """A picture of one episode, or what is wrong with it: the rest of the page is wanted all the more."""
    try:
        return draw(store, index)
    except GatoError as error:
        return f'<div class="card"><p class="note">episode {index}: {html.escape(str(error))}</p></div>'


def _frames(store: Store, index: int) -> str:
    """Frames of one episode, evenly chosen; only they are read."""
    leaves = [path for path, leaf in store.spec.observations.items() if leaf.modality == "image"]
    if not leaves:
        return ""
    length = int(store.lengths[index])
    chosen = np.unique(np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int)).tolist()
    steps = [store.episode(index, step, step + 1).observations for step in chosen]
    texts = [path for path, leaf in store.spec.observations.items() if leaf.modality == "text"]
    words = " / ".join(steps[0][path][0] for path in texts)[:200]
    strips = []
    for leaf in leaves:
        pictures = "".join(
            f'<figure><img src="{png_uri(values[leaf][0])}" alt="{html.escape(leaf)}, step {step}">'
            f"<figcaption>step {step}</figcaption></figure>"
            for step, values in zip(chosen, steps, strict=True)
        )
        caption = f"{leaf}; {words}" if words else leaf
        strips.append(
            f'<figure class="strip"><figcaption>{html.escape(caption)}</figcaption>'
            f'<div class="frames">{pictures}</div></figure>'
        )
    return f'<div class="card"><h3>Frames of episode {index}</h3>{"".join(strips)}</div>'


def _tokens(tokenizer: SequenceTokenizer, text: TextTokenizer, store: Store, index: int) -> str:
    """The beginning of one episode as the network reads it, in a box of its own that scrolls."""
    length = int(store.lengths[index])
    steps = min(length, -(-SHOWN_TOKENS // tokenizer.tokens_per_timestep(store.spec)))
    episode = store.episode(index, 0, steps)
    sequence = tokenizer.tokenize(episode.observations, episode.actions, store.spec)
    title = f"episode {index}" if steps == length else f"episode {index}, its first {steps} of {length:,} timesteps"
    described = describe_tokens(title, sequence, tokenizer.vocabulary, text, SHOWN_TOKENS)
    return f'<h3>Tokens</h3><div class="scroll">{token_card([described])}</div>'


def _actions(store: Store, index: int) -> str:
    """Each dimension of the actions over time, between the bounds of its leaf."""
    episode = store.episode(index, 0, min(int(store.lengths[index]), ACTION_STEPS))
    lines = []
    for path, leaf in store.spec.actions.items():
        if leaf.modality == "text":
            continue
        values = np.asarray(episode.actions[path], np.float64).reshape(len(episode), -1)
        low = np.broadcast_to(0.0 if leaf.low is None else np.asarray(leaf.low), values.shape[1])
        high = np.broadcast_to(
            (leaf.values or 2) - 1.0 if leaf.high is None else np.asarray(leaf.high), values.shape[1]
        )
        for dimension in range(min(values.shape[1], SHOWN_ACTIONS)):
            lines.append(
                (f"{path}[{dimension}]" if values.shape[1] > 1 else path, values[:, dimension], low, high, dimension)
            )
    if not lines:
        return ""
    width, height, gap, left = 900, 44, 26, 190
    right, steps = width - 10, max(len(episode) - 1, 1)
    total = len(lines) * (height + gap) - gap
    out = []
    for tick in ticks(0, steps):
        if tick == round(tick):  # a short axis has halves, too
            at = left + (right - left) * tick / steps
            out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{total + 4}"/>')
            out.append(f'<text class="tick" x="{at:.1f}" y="{total + 17}" text-anchor="middle">{tick:,.0f}</text>')
    shown = "step" if len(episode) == store.lengths[index] else f"step, of {int(store.lengths[index]):,}"
    out.append(f'<text class="tick" x="{left - 10}" y="{total + 17}" text-anchor="end">{shown}</text>')
    for row, (name, values, low, high, dimension) in enumerate(lines):
        top = row * (height + gap)
        span = max(float(high[dimension] - low[dimension]), 1e-9)
        x = left + (right - left) * np.arange(len(values)) / steps
        y = top + height - height * (values - low[dimension]) / span
        points = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
        short = name if len(name) <= 24 else f"…{name[-23:]}"
        middle = f'x="0" y="{top + height / 2 + 4:.0f}"'
        out.append(f'<text class="tick" {middle}>{html.escape(short)}<title>{html.escape(name)}</title></text>')
        for edge, bound in ((top, high[dimension]), (top + height, low[dimension])):
            out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{edge}" y2="{edge}"/>')
            out.append(f'<text class="tick" x="{left - 10}" y="{edge + 4}" text-anchor="end">{bound:,.6g}</text>')
        out.append(f'<path class="line s{row % 8}" d="M{points}"/>')
    chart = (
        f'<svg class="chart" viewBox="0 -8 {width} {total + 30}" role="img" aria-label="actions">{"".join(out)}</svg>'
    )
    return f'<div class="card"><h3>Actions of episode {index}</h3>{chart}</div>'


def _packing(path: Path, tokenizer: SequenceTokenizer, length: int) -> str:
    """The first rows of a training on this store alone: a box for each segment, its prompt in another colour.

    Raises:
      MixtureError: rows of this length cannot hold what is in the store.
    """
    sources = open_sources([SourceConfig(path, expert_filter=None)], tokenizer, length, seed=0)
    table, row_of = Rows(sources, length, seed=0).segments(0, SHOWN_ROWS)
    colours = {
        "prompt": "patch",
        "document" if sources[0].store.spec.kind == "document" else "episode window": "action",
    }
    width, height = 900, 14
    out = [
        f'<rect class="bed" width="{width}" y="{row * (height + 3)}" height="{height}" rx="2"/>'
        for row in range(SHOWN_ROWS)
    ]
    used, drawn = np.zeros(SHOWN_ROWS, np.int64), set()
    for segment, row in zip(table, row_of.tolist(), strict=True):
        counts = segment[PROMPT_END] - segment[PROMPT_BEGIN], segment[END] - segment[BEGIN]
        for (name, colour), tokens in zip(colours.items(), map(int, counts), strict=True):
            if not tokens:
                continue
            x, w = width * used[row] / length, width * tokens / length
            out.append(
                f'<rect x="{x:.1f}" y="{row * (height + 3)}" width="{max(w - 1, 0.5):.1f}" height="{height}" rx="2" '
                f'style="fill:var(--{colour})"><title>{name}: {tokens} tokens</title></rect>'
            )
            used[row] += tokens
            drawn.add(name)
    share = used.sum() / (SHOWN_ROWS * length)
    keys = [(f"{name}s", colour) for name, colour in colours.items() if name in drawn] + [("empty", "faint")]
    key = "".join(f'<li><i style="background:var(--{colour})"></i>{name}</li>' for name, colour in keys)
    chart = (
        f'<svg class="chart" viewBox="0 0 {width} {SHOWN_ROWS * (height + 3)}" role="img" aria-label="rows">'
        f"{''.join(out)}</svg>"
    )
    note = f"the first {SHOWN_ROWS} rows of {length:,} tokens, {share:.1%} full"
    return f'<div class="card"><h3>Rows</h3><ul class="key">{key}</ul>{chart}<p class="note">{note}</p></div>'
