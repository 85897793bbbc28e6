"""What a run will see of each source, as lines of text: small sources repeat a lot, and that should be known before.

The paper saw its Meta-World data 14 times and its Atari data 40 times.
"""

from __future__ import annotations

from collections.abc import Sequence

from gato.data_pipelines.mixture import Source
from gato.data_pipelines.rows import Rows

LISTED = 24  # sources; more are summed up by the first part of their names


def mixture_table(sources: Sequence[Source], rows: Rows, total_rows: int) -> list[str]:
    """Lines: name, share of the tokens, episodes, tokens of an epoch, epochs in ``total_rows`` rows."""
    epochs = rows.epochs(total_rows)
    groups: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        if number in epochs:
            name = source.name if len(sources) <= LISTED else f"{source.name.partition('/')[0]}/*"
            groups.setdefault(name, []).append(number)
    width = max(map(len, [*groups, "source"]))
    lines = [f"{'source':{width}}  {'share':>6}  {'episodes':>10}  {'tokens':>9}  epochs"]
    for name, members in groups.items():
        share = sum(sources[n].share for n in members)
        episodes = sum(len(sources[n].episodes[rows.split]) for n in members)
        tokens = sum(int(sources[n].index.totals[sources[n].episodes[rows.split]].sum()) for n in members)
        seen = sorted(epochs[n] for n in members)
        times = _times(seen[0]) if len(seen) == 1 else f"{_times(seen[0])} to {_times(seen[-1])}"
        lines.append(f"{name:{width}}  {share:6.1%}  {episodes:10,}  {_short(tokens):>9}  {times}")
    return lines


def _times(epochs: float) -> str:
    return f"{epochs:.2g}" if epochs < 10 else f"{epochs:,.0f}"


def _short(count: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
