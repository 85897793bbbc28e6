"""Writing text: captions of images, answers to questions, continuations; batched, with the cache that acting uses.

Only text ids and the end token can be drawn, so whatever is written decodes. Gato samples captions at temperature 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gato.inference import sampler
from gato.inference.history import History
from gato.model.cache import init_cache
from gato.model.config import ModelConfig
from gato.tokenizers.errors import SpecError
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.token_sequence import concatenate

BATCH = 64
ROUNDING = 16  # of the texts' lengths, which are compiled shapes


def generate(
    config: ModelConfig,
    params: Any,
    tokenizer: SequenceTokenizer,
    documents: Mapping[str, Sequence[Any]],
    spec: EpisodeSpec,
    *,
    key: jax.Array,
    sampling: sampler.Sampling,
    limit: int,
    begin: str = "",
) -> list[str]:
    """Completes N documents.

    Args:
      documents: leaf path -> N values, the first leaves of the spec in its order: ``{"image": uint8 [N, H, W, C]}``
        asks for captions, ``{"image": ..., "question": [...]}`` for answers.
      spec: of the documents, ``kind="document"``; at least its last leaf, a text, is left out.
      key: decides, with a document's number, what is drawn for it. sampling: how.
      limit: most tokens of a text.
      begin: words with which every text starts; where sources share their images, they tell what is asked for.

    Returns:
      N texts, each with ``begin``, without the end token.

    Raises:
      SpecError: no leaf is left to write, or a given leaf does not match the spec.
    """
    left = [path for path in spec.observations if path not in documents]
    if spec.kind != "document" or not left or spec.observations[left[-1]].modality != "text":
        raise SpecError(
            f"generate: a document spec whose last leaf is text and not given is needed, got kind {spec.kind!r} with "
            f"{', '.join(spec.observations)}, given {', '.join(documents)}"
        )
    if tokenizer.text is None:
        raise SpecError("generate: this tokenizer has no text model")
    counts = {path: len(values) for path, values in documents.items()}
    if len(set(counts.values())) != 1:
        raise SpecError(f"generate: every leaf needs one value a document, got {counts}")
    total = next(iter(counts.values()))
    first = tokenizer.text.encode(begin) if begin else np.zeros(0, np.int32)
    prefixes = []
    for i in range(total):
        one = {
            path: np.asarray(values[i])[None] if _is_image(spec, path) else [values[i]]
            for path, values in documents.items()
        }
        prefixes.append(tokenizer.tokenize(one, None, spec))
    batch = -(-total // -(-total // BATCH)) if total else 0  # equal batches: one compiled shape
    texts: list[str] = []
    vocabulary = tokenizer.vocabulary
    for start in range(0, total, max(batch, 1)):
        chosen = prefixes[start : start + batch]
        missing = batch - len(chosen)
        chosen += [chosen[-1]] * missing
        history = History(batch, vocabulary.padding)
        rows = np.concatenate([np.full(len(prefix), row, np.int32) for row, prefix in enumerate(chosen)])
        history.append(rows, concatenate(chosen))
        if len(first):
            history.append_ids(np.arange(batch), np.tile(first, (batch, 1)))
        longest = -(-int(history.lengths.max()) // ROUNDING) * ROUNDING
        tokens, valid = history.chunk(np.arange(batch), np.zeros(batch, np.int32), longest)
        ids = sampler.extend_and_write(
            config,
            tokenizer.text.size,
            vocabulary.end,
            limit,
            params,
            init_cache(config, batch, longest + limit, params),
            tokens,
            valid,
            sampler.fold_each(jax.numpy.broadcast_to(key, batch), np.arange(start, start + batch)),
            sampling,
        )
        for row in np.asarray(ids)[: batch - missing]:
            ended = np.flatnonzero(row == vocabulary.end)
            written = row[: ended[0]] if len(ended) else row
            texts.append(tokenizer.text.decode(np.concatenate([first, written])))
    return texts


def _is_image(spec: EpisodeSpec, path: str) -> bool:
    return path in spec.observations and spec.observations[path].modality == "image"
