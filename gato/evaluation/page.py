"""The frame of our self-contained HTML pages: no script, no external resource, light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files


def page(title: str, sections: Iterable[str]) -> str:
    """The whole page; empty sections are left out."""
    style = files("gato.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An empty icon: otherwise a browser asks for /favicon.ico.
        f'<link rel="icon" href="data:,"><style>\n{style}</style></head>\n<body><main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def header(title: str, lead: str, tiles: Sequence[tuple[str, str]]) -> str:
    """The page's head; tiles: (figure, what it is)."""
    boxes = "".join(f'<div class="tile"><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>' for v, k in tiles)
    return f'<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p><div class="tiles">{boxes}</div></header>'


def section(title: str, lead: str, body: str) -> str:
    """A section with its heading and a sentence on what it shows; ``body`` is HTML."""
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'
