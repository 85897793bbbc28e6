"""What the command line understands as a time, a number, a mesh; `argparse` puts the option in front of a refusal."""

from __future__ import annotations

import argparse
import re


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 20m, 2h or 900s")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def steps(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no FIRST:LAST, e.g. 10:15")
    return int(match[1]), int(match[2])


def natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 0")
    return int(text)


def collection_seed(text: str) -> int:
    from gato.data_pipelines.environments.base import COLLECTION_SEED  # here: `gato --help` does not wait for NumPy

    if natural(text) >= COLLECTION_SEED:
        raise argparse.ArgumentTypeError(f"{text} is above {COLLECTION_SEED - 1}; larger seeds belong to evaluations")
    return int(text)


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 1")
    return int(text)


def not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number >= 0")
    return number


def mesh(text: str) -> tuple[int, int, int]:
    sizes = re.fullmatch(r"(-1|[1-9]\d*),(-1|[1-9]\d*),(-1|[1-9]\d*)", text)
    if not sizes:
        raise argparse.ArgumentTypeError(f"{text!r} is no mesh; write data,fsdp,tensor, e.g. 32,8,1 (-1: the rest)")
    return int(sizes[1]), int(sizes[2]), int(sizes[3])


def share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return share


def amount(text: str) -> float:
    """A number above 0, also as 524e9."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number > 0")
    return number
