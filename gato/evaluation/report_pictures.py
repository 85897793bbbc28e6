"""Pictures of the report: GIFs of acting episodes, images as data URIs, and a token sequence one can read.

The token picture shows one `TokenSequence` as chips in reading order: the colour is the kind of token, a filled chip is
learned (its loss weight is above 0), an outlined one is only read. Patches show their pixels.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gato.data_pipelines.atomic_file import replace_file
from gato.tokenizers.layout import KINDS
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import TokenSequence
from gato.tokenizers.vocabulary import Vocabulary

# Names of the kinds as a reader of the page knows them.
KIND_NAMES = {"patch": "image patch", "derived": "recipe's own", "special": "begin, end"}


def write_gif(frames: Sequence[np.ndarray], path: Path, frames_per_second: float = 10.0, longest: int = 120) -> None:
    """Writes uint8 [H, W, 3] frames as an endless GIF of at most `longest` frames, evenly chosen, the last one held.

    One palette serves all frames: a palette of each frame's own flickers and is several times larger.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(longest, len(frames))).round().astype(int))
    images = [Image.fromarray(np.asarray(frames[i], np.uint8)) for i in chosen]
    sample = [*images[:: max(1, len(images) // 8)], images[-1]]
    sheet = Image.new("RGB", (images[0].width, images[0].height * len(sample)))
    for i, image in enumerate(sample):
        sheet.paste(image, (0, i * images[0].height))
    palette = sheet.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    # Fewer frames than steps were taken: each stays longer, so that the episode keeps its pace up to double speed.
    milliseconds = round(1000 / frames_per_second * max(1.0, len(frames) / len(chosen) / 2))
    durations = [milliseconds] * (len(flat) - 1) + [1200]
    path.parent.mkdir(parents=True, exist_ok=True)
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False, disposal=1)


def data_uri(content: bytes, kind: str) -> str:
    """``data:image/png;base64,...`` for ``kind="image/png"``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] (or [H, W, 1]) -> data URI of a PNG."""
    return data_uri(_png(pixels), "image/png")


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 [H, W, 3] (or [H, W, 1]) as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _png(pixels))


def _png(pixels: np.ndarray) -> bytes:
    pixels = np.asarray(pixels, np.uint8)
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def describe_tokens(
    title: str, sequence: TokenSequence, vocabulary: Vocabulary, text: TextTokenizer, most: int = 160
) -> dict[str, Any]:
    """The first `most` tokens as JSON data that `token_picture` draws: kind, label, loss weight, timestep, pixels."""
    tokens: list[dict[str, Any]] = []
    for i in range(min(most, len(sequence))):
        kind = KINDS[sequence.kinds[i]]
        token: dict[str, Any] = {
            "kind": kind,
            "weight": round(float(sequence.loss_weight[i]), 4),
            "timestep": int(sequence.timestep[i]),
            "label": _label(int(sequence.ids[i]), kind, vocabulary, text),
        }
        if sequence.patch_index[i] >= 0:
            token["pixels"] = png_uri(sequence.patches[sequence.patch_index[i]])
            token["label"] = ""
        tokens.append(token)
    return {"title": title, "tokens": tokens, "total": len(sequence), "timesteps": len(sequence.timestep_starts) - 1}


def _label(token_id: int, kind: str, vocabulary: Vocabulary, text: TextTokenizer) -> str:
    if token_id == vocabulary.separator:
        return "|"
    if token_id == vocabulary.begin:
        return "begin"
    if token_id == vocabulary.end:
        return "end"
    if vocabulary.text_size <= token_id < vocabulary.separator:
        return str(token_id - vocabulary.text_size)
    if kind == "text":
        return text.decode(np.array([token_id], np.int32)).replace(" ", "␣").replace("\n", "⏎") or str(token_id)
    return str(token_id)


def token_picture(described: Mapping[str, Any]) -> str:
    """HTML of one described sequence."""
    groups: dict[int, list[str]] = {}
    for token in described["tokens"]:
        kind, weight = token["kind"], token["weight"]
        tip = f"{KIND_NAMES.get(kind, kind)}; loss weight {weight:g}"
        learned = " learned" if weight > 0 else ""
        if "pixels" in token:
            chip = f'<img class="chip k-{kind}{learned}" src="{token["pixels"]}" alt="image patch" title="{tip}">'
        else:
            label = html.escape(token["label"])
            chip = f'<span class="chip k-{kind}{learned}" title="{html.escape(tip)}">{label}</span>'
        groups.setdefault(token["timestep"], []).append(chip)
    steps = "".join(
        f'<div class="timestep"><span class="clock">t={step}</span>{"".join(chips)}</div>'
        for step, chips in groups.items()
    )
    shown, total = len(described["tokens"]), described["total"]
    rest = f'<p class="note">the first {shown} of {total:,} tokens, {described["timesteps"]:,} timesteps</p>'
    rest = rest if shown < total else f'<p class="note">{total:,} tokens</p>'
    return f'<figure class="tokens"><figcaption>{html.escape(described["title"])}</figcaption>{steps}{rest}</figure>'


def token_legend(kinds: Sequence[str]) -> str:
    """The key to the colours, for the kinds that occur."""
    chips = [f'<span class="chip k-{kind}">{html.escape(KIND_NAMES.get(kind, kind))}</span>' for kind in kinds]
    chips.append('<span class="chip k-separator learned">filled: learned</span>')
    chips.append('<span class="chip k-separator">outlined: only read</span>')
    return f'<p class="legend">{"".join(chips)}</p>'


def token_card(described: Sequence[Mapping[str, Any]]) -> str:
    """Several described sequences with the key to their colours."""
    present = {token["kind"] for sequence in described for token in sequence["tokens"]}
    legend = token_legend([kind for kind in KINDS if kind in present])
    return f'{legend}<div class="card">{"".join(token_picture(sequence) for sequence in described)}</div>'
