"""What the paper's 1.18B network reached on each domain (Reed et al. 2022, section 4.1 and its tables)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class PaperDomain:
    """One domain: its number of tasks, the mean normalised score and the tasks above half of the expert, if published.

    Its environments and experts are not ours (proprietary experts, other wrappers), so the comparison is rough.
    """

    tasks: int
    mean: float | None = None
    above_half: int | None = None


_META_WORLD, _BABYAI = PaperDomain(45, mean=87.0, above_half=44), PaperDomain(46, mean=93.2)
PAPER: Mapping[str, PaperDomain] = {
    "ale": PaperDomain(51, mean=30.9),
    "babyai": _BABYAI,
    "babyai-raw": _BABYAI,
    "dm_control": PaperDomain(30, above_half=21),
    "metaworld": _META_WORLD,
    "metaworld-full": _META_WORLD,
}
PAPER_ALL = PaperDomain(604, above_half=450)
