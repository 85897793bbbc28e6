"""How long something takes, for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``3.2 s``, ``42 s``, ``3 min 05 s``, ``1 h 12 min``, ``6 d 04 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{round(seconds, 1):g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"
