"""What to say about a step whose loss or gradient is not finite: sources, rows of the batch, and their episodes.

The step itself leaves such a state unchanged (`make_train_step`), so the parameters are still good when the host reads
of it. Its batch can be assembled again, and the loss of each segment of each row is computed with these parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gato.data_pipelines.rows import BEGIN, END, EPISODE, PROMPT_EPISODE, SOURCE
from gato.training.setup import Setup
from gato.training.step import StepMetrics

SHOWN = 5  # segments named in a message


def describe(setup: Setup, step: int, metrics: StepMetrics, params: Any) -> str:
    """What was not finite at a step, and where in its data. All processes call it together.

    Args:
      step: updates made after it, so that its batch is number ``step - 1``.
      metrics: of the step, host values.
      params: the newest parameters.
    """
    names, sums = setup.source_names, metrics.sums
    bad = [
        name
        for name, loss, weight in zip(names, sums.source_loss, sums.source_weight, strict=True)
        if not np.isfinite(loss + weight)
    ]
    seen = [name for name, weight in zip(names, sums.source_weight, strict=True) if not weight <= 0]
    if not bad:
        return (
            f"the gradient is {float(metrics.gradient_norm)} while the loss is finite; the batch held "
            f"{', '.join(seen)} (rows {_range(setup, step)} of the run)"
        )
    what = f"the loss is {float(sums.loss)}"
    if len(bad) == len(seen) > 1:
        return f"{what}: in every source of the batch ({', '.join(bad)}), so the parameters themselves diverged"
    segments = list(_bad_segments(setup, step, params))
    if segments:
        more = f" and {len(segments) - SHOWN} more" if len(segments) > SHOWN else ""
        where = f": {'; '.join(segments[:SHOWN])}{more}"
    else:
        where = f" among rows {_range(setup, step)} of the run; finite when it was computed again without dropout"
    return f"{what}: in rows of the source {', '.join(bad)}{where}"


def _range(setup: Setup, step: int) -> str:
    return f"{(step - 1) * setup.batch_size}..{step * setup.batch_size - 1}"


def _bad_segments(setup: Setup, step: int, params: Any) -> Iterator[str]:
    """Every segment of the step's batch whose loss is not finite, in words."""
    first = (step - 1) * setup.batch_size
    table, row_of = setup.loader.rows.segments(first, first + setup.batch_size)
    number_of = np.arange(len(table)) - np.searchsorted(row_of, row_of)  # of a segment in its row
    most = int(number_of.max()) + 1
    batch = setup.loader.batch(step - 1)
    rows, length = batch["ids"].shape
    size = rows // len(setup.hosted)  # of a group
    # The loss is summed by source; with a source for each segment, it is summed by segment.
    local_row = np.arange(len(setup.hosted))[:, None] * size + batch["target_index"] // length
    number = np.maximum(batch["segment_ids"][local_row, batch["target_index"] % length] - 1, 0)
    global_row = np.asarray(setup.hosted)[:, None] * size + batch["target_index"] // length
    classes = setup.batch_size * most
    numbered = {**batch, "target_source": (global_row * most + number).astype(np.int32)}
    sums = jax.device_get(setup.class_losses(classes)(params, setup.put(numbered)))
    for found in np.flatnonzero(~np.isfinite(sums.source_loss + sums.source_weight)):
        row, segment = divmod(int(found), most)
        mine = np.flatnonzero((row_of == row) & (number_of == segment))
        if len(mine):
            entry = table[mine[0]]
            prompt = f", prompted by episode {entry[PROMPT_EPISODE]}" if entry[PROMPT_EPISODE] >= 0 else ""
            yield (
                f"row {row} of the batch ({first + row} of the run): episode {entry[EPISODE]} of "
                f"{setup.source_names[entry[SOURCE]]}, tokens {entry[BEGIN]}..{entry[END] - 1}{prompt}"
            )
