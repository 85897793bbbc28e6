"""What decides a row's draws beside the agent's own seed: a number, and how often the row has acted since it got it.

Where nobody asked for a number, an agent gives each row the next one and counts from 2^31 instead of 0: whoever asks
for the same number does not draw the same.
"""

from __future__ import annotations

import numpy as np

from gato.inference.session import AgentError


def explicit_draws(seed: int, where: str) -> tuple[int, int]:
    """A row's draws with a seed that was asked for. Raises AgentError: it is no seed."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 32:
        raise AgentError(f"{where}: a seed is a whole number from 0 to 2**32 - 1, got {seed!r}")
    return int(seed), 0


def automatic_draws(number: int) -> tuple[int, int]:
    """A row's draws without a seed, the agent's ``number``-th such row: none that a seed gives."""
    return number, 1 << 31
