"""Writing text: captions of images, answers to questions, continuations; batched, with the cache that acting uses.

Only text ids and the end token can be drawn, so whatever is written decodes. Gato samples captions at temperature 0.9.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gato.inference import writing
from gato.inference.history import History
from gato.inference.sampling import Sampling, fold_each
from gato.model.cache import init_cache
from gato.model.config import ModelConfig
from gato.tokenizers.errors import SpecError
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import TokenSequence, concatenate

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
    sampling: Sampling,
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
    text, first = check_document(tokenizer, documents, spec, begin)
    counts = {path: len(values) for path, values in documents.items()}
    if len(set(counts.values())) != 1:
        raise SpecError(f"generate: every leaf needs one value a document, got {counts}")
    total = next(iter(counts.values()))
    prefixes = [prefix(tokenizer, {path: values[i] for path, values in documents.items()}, spec) for i in range(total)]
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
        cache = init_cache(config, batch, longest + limit, params)
        ids, _ = writing.write(
            config,
            text.size,
            vocabulary.end,
            limit,
            params,
            writing.begin(config, params, cache, tokens, valid),
            document_keys(key, start, batch),
            sampling,
        )
        for row in np.asarray(ids)[: batch - missing]:
            ended = np.flatnonzero(row == vocabulary.end)
            written = row[: ended[0]] if len(ended) else row
            texts.append(text.decode(np.concatenate([first, written])))
    return texts


def document_keys(key: jax.Array, first: int, count: int) -> jax.Array:
    """[count], the keys of documents ``first`` and following, whatever the batch in which they are written."""
    return fold_each(jnp.broadcast_to(key, count), jnp.arange(first, first + count))


def check_document(
    tokenizer: SequenceTokenizer, given: Collection[str], spec: EpisodeSpec, begin: str
) -> tuple[TextTokenizer, np.ndarray]:
    """The text model and the ids of ``begin``, for documents whose leaves ``given`` are there and the last is not.

    Raises SpecError, see `generate`.
    """
    left = [path for path in spec.observations if path not in given]
    if spec.kind != "document" or not left or spec.observations[left[-1]].modality != "text":
        raise SpecError(
            f"generate: a document spec whose last leaf is text and not given is needed, got kind {spec.kind!r} with "
            f"{', '.join(spec.observations)}, given {', '.join(given)}"
        )
    if tokenizer.text is None:
        raise SpecError("generate: this tokenizer has no text model")
    return tokenizer.text, tokenizer.text.encode(begin) if begin else np.zeros(0, np.int32)


def prefix(tokenizer: SequenceTokenizer, document: Mapping[str, Any], spec: EpisodeSpec) -> TokenSequence:
    """The tokens of the leaves of one document that are given. Raises SpecError, see `SequenceTokenizer.tokenize`."""
    images = {path for path, leaf in spec.observations.items() if leaf.modality == "image"}
    one = {path: np.asarray(value)[None] if path in images else [value] for path, value in document.items()}
    return tokenizer.tokenize(one, None, spec)
