"""Durations in two units at most, never a unit full."""

from __future__ import annotations

import pytest

from gato.data_pipelines.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3.21, "3.2 s"),
        (4, "4 s"),
        (41, "41 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (4320, "1 h 12 min"),
        (86_390, "1 d 00 h"),
        (518_400 + 4 * 3600, "6 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
