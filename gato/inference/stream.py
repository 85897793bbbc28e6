"""One text as it is written: pieces that can be shown at once, until it ends.

A few tokens are sampled a compiled call (`writing`). What is handed out never changes afterwards: half a character and
the beginning of a stop string are kept back until the tokens behind them decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gato.inference import writing
from gato.inference.generate import check_document, document_keys, prefix
from gato.inference.history import History
from gato.inference.sampling import Sampling
from gato.model.cache import init_cache
from gato.model.config import ModelConfig
from gato.tokenizers.errors import SpecError
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer

TOKENS_A_CALL = 8
SMALLEST_PROMPT = 16
# UTF-8 has at most four bytes a character: so many undecided bytes can still become one.
_UNDECIDED = 3
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class TextStream(Iterator[str]):
    """Iterates over the pieces of one text; arguments as in `gato.inference.generate.generate`, for one document.

    Attributes:
      text: what was handed out so far; `begin` is not part of it.
      reason: why the text ended: "end" (its end token), "stop" (a stop string came, which is cut off), "limit" (of
        tokens) or "context" (a row of training is full). None while it is being written.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        tokenizer: SequenceTokenizer,
        document: Mapping[str, Any],
        spec: EpisodeSpec,
        *,
        key: jax.Array,
        sampling: Sampling,
        limit: int,
        context: int,
        begin: str = "",
        stop: Sequence[str] = (),
    ) -> None:
        """``context``: most tokens of prompt and text together. ``stop``: strings that end the text.

        Raises:
          SpecError: see `generate`; or the prompt alone fills the context.
        """
        self.text = ""
        self.reason: str | None = None
        text, first = check_document(tokenizer, document, spec, begin)
        given = prefix(tokenizer, document, spec)
        length = len(given) + len(first)
        if length >= context:
            raise SpecError(
                f"the prompt has {length} tokens, but a row of this network holds {context}, the text included: "
                "shorten it"
            )
        self._limit, self._full = min(limit, context - length), limit > context - length
        # Few shapes: prompts are padded to powers of two, and every cache has room for the whole context.
        capacity = -(-(context + TOKENS_A_CALL) // SMALLEST_PROMPT) * SMALLEST_PROMPT
        padded = min(max(SMALLEST_PROMPT, 1 << (length - 1).bit_length()), capacity)
        history, row = History(1, tokenizer.vocabulary.padding), np.zeros(1, np.int32)
        history.append(given.timestep, given)
        history.append_ids(row, first[None])
        tokens, valid = history.chunk(row, row, padded)
        state = writing.begin(config, params, init_cache(config, 1, capacity, params), tokens, valid)
        end, keys = tokenizer.vocabulary.end, document_keys(key, 0, 1)

        def more(state: writing.Writing) -> tuple[jax.Array, writing.Writing]:
            return writing.write(config, text.size, end, TOKENS_A_CALL, params, state, keys, sampling)

        self._pieces = self._write(more, state, end, PieceDecoder(text, first, stop))

    def __next__(self) -> str:
        piece = next(self._pieces)
        self.text += piece
        return piece

    def _write(self, more: Any, state: writing.Writing, end: int, decoder: PieceDecoder) -> Iterator[str]:
        written = 0
        while self.reason is None:
            if written >= self._limit:
                self.reason = "context" if self._full else "limit"
            else:
                ids_1N, state = more(state)
                ids = np.asarray(ids_1N)[0][: self._limit - written]
                if (ids == end).any():
                    ids = ids[: int(np.argmax(ids == end))]
                    self.reason = "end"
                written += len(ids)
                decoder.ids += ids.tolist()
            piece, stopped = decoder.next(final=self.reason is not None)
            if stopped:
                self.reason = "stop"
            if piece:
                yield piece


class PieceDecoder:
    """Ids -> the text that may be shown.

    Attributes:
      ids: of the text, the prompt's own words ``first`` in front; append to it.
    """

    def __init__(self, text: TextTokenizer, first: np.ndarray, stop: Sequence[str]) -> None:
        self._text, self._stop = text, [s for s in stop if s]
        self.ids: list[int] = first.tolist()
        self._start = self._shown = len(text.decode(first))

    def next(self, final: bool) -> tuple[str, bool]:
        """What can be shown beyond what was, and whether a stop string came. ``final``: nothing will follow."""
        whole = self._text.decode(self.ids)
        found = [at for at in (whole.find(s, self._start) for s in self._stop) if at >= 0]
        if found:
            return self._show(whole, min(found)), True
        return self._show(whole, len(whole) if final else self._decided(whole)), False

    def _decided(self, whole: str) -> int:
        """Length of the part of ``whole`` that no further token can change or make part of a stop string."""
        undecided = len(whole) - len(whole.rstrip(_NO_CHARACTER))
        length = len(whole) - min(undecided, _UNDECIDED)
        begun = [n for s in self._stop for n in range(1, len(s)) if whole.endswith(s[:n], self._start, length)]
        return length - max(begun, default=0)

    def _show(self, whole: str, until: int) -> str:
        piece = whole[self._shown : until]
        self._shown = max(self._shown, until)
        return piece
