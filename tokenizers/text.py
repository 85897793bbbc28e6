"""Text <-> SentencePiece ids, exactly: what goes in comes out again (Gato section 2.1: 32,000 pieces).

Models are made by `train` with identity normalisation, byte fallback, no dummy prefix and all whitespace kept. The one
character that does not survive is U+2581, with which SentencePiece writes a space: it comes back as a space. There are
no user-defined symbols, which would match inside raw text, so that data could inject a separator.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece

from gato.tokenizers.errors import GatoError, SpecError, VocabularyError

DEFAULT_MODEL = pathlib.Path(__file__).with_name("default_32000.model")
DEFAULT_SIZE = 32000
LEAST_SIZE = 1024  # discrete values share the ids of the pieces
_LONGEST_CACHED = 1024  # characters; instructions repeat, documents do not


class TextTokenizer:
    """A SentencePiece model. Equal model bytes make equal tokenizers; picklable.

    Attributes:
      model_bytes: the serialized model, as a checkpoint keeps it.
    """

    def __init__(self, model_bytes: bytes) -> None:
        """Raises VocabularyError if the bytes are no SentencePiece model."""
        self.model_bytes = bytes(model_bytes)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        except RuntimeError as error:
            raise VocabularyError(f"these {len(model_bytes)} bytes are no SentencePiece model: {error}") from None
        self._cached = functools.lru_cache(maxsize=16384)(self._encode)

    def __reduce__(self) -> tuple[type[TextTokenizer], tuple[bytes]]:
        return TextTokenizer, (self.model_bytes,)

    @staticmethod
    def from_file(path: str | pathlib.Path) -> TextTokenizer:
        """Raises GatoError if the file cannot be read, or is something else."""
        try:
            return TextTokenizer(pathlib.Path(path).read_bytes())
        except VocabularyError:
            raise VocabularyError(f"{path}: is no SentencePiece model; `gato data train-tokenizer` makes one") from None
        except OSError as error:
            raise GatoError(f"{path}: cannot read the SentencePiece model: {error.strerror}") from None

    @staticmethod
    def load(path: str | pathlib.Path | None) -> TextTokenizer:
        """`from_file`, or `default` where there is no path."""
        return TextTokenizer.from_file(path) if path else TextTokenizer.default()

    @staticmethod
    def default() -> TextTokenizer:
        """The 32,000 pieces that come with the package, made by `build_default`."""
        return _default()

    @property
    def size(self) -> int:
        """Number of pieces."""
        return int(self._processor.get_piece_size())

    @functools.cached_property
    def hash(self) -> str:
        """Hexadecimal digest of the model."""
        return hashlib.sha256(self.model_bytes).hexdigest()[:16]

    def encode(self, text: str, where: str = "text") -> np.ndarray:
        """Ids of a text, int32 [n], read-only. Ids of short texts are cached.

        Raises:
          SpecError: a lone surrogate, which no UTF-8 text can hold; the message begins with `where`.
        """
        try:
            return self._cached(text) if len(text) <= _LONGEST_CACHED else self._encode(text)
        except UnicodeEncodeError as error:
            raise SpecError(
                f"{where}: lone surrogate {text[error.start]!a} at character {error.start} is not valid Unicode; "
                "decode the source as UTF-8 with errors='replace'"
            ) from None

    def encode_batch(self, texts: Sequence[str], where: str = "text") -> list[np.ndarray]:
        """`encode` of each text. Equal short texts share one array."""
        return [self.encode(text, where) for text in texts]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of ids [n]. Bytes that are no UTF-8 become U+FFFD.

        Raises:
          VocabularyError: an id that is no piece of this model.
        """
        pieces = np.asarray(ids, np.int64).reshape(-1)
        if pieces.size and (pieces.min() < 0 or pieces.max() >= self.size):
            bad = pieces[(pieces < 0) | (pieces >= self.size)][0]
            raise VocabularyError(f"id {bad} is no text: this SentencePiece model has pieces 0..{self.size - 1}")
        return str(self._processor.decode(pieces.tolist()))

    def _encode(self, text: str) -> np.ndarray:
        ids = np.array(self._processor.encode(text.encode()), np.int32)
        ids.flags.writeable = False
        return ids


@functools.cache
def _default() -> TextTokenizer:
    return TextTokenizer.from_file(DEFAULT_MODEL)


def train(texts: Iterable[str], size: int = DEFAULT_SIZE) -> bytes:
    """Trains a BPE model of exactly `size` pieces. Single-threaded: the same texts always make the same bytes.

    Raises:
      VocabularyError: fewer than `LEAST_SIZE` pieces, too little text for so many, or too many different characters.
      GatoError: of `texts`, passed on.
    """
    if size < LEAST_SIZE:
        raise VocabularyError(f"{size} pieces asked for, but discrete values need the ids of at least {LEAST_SIZE:,}")
    model = io.BytesIO()
    failures: list[GatoError] = []

    def lines() -> Iterator[str]:
        try:
            yield from (line for text in texts for line in text.splitlines(keepends=False) if line)
        except GatoError as error:  # SentencePiece makes a RuntimeError of it
            failures.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            num_threads=1,
            normalization_rule_name="identity",
            byte_fallback=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 20,
            shuffle_input_sentence=False,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise VocabularyError(f"cannot train {size} pieces: {_why(str(error))}") from None
    return model.getvalue()


def _why(message: str) -> str:
    """What SentencePiece's message says about the texts."""
    most = re.search(r"too high .* value <= (\d+)", message)
    if most and int(most[1]) < LEAST_SIZE:
        return f"these texts give {int(most[1]):,}, and at least {LEAST_SIZE:,} are needed; add more text"
    if most:
        return f"these texts give {int(most[1]):,} at most; ask for fewer, or add more text"
    least = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if least:
        return f"the characters of these texts alone need {int(least[1]):,}; ask for more"
    return "there is no text" if "sentences_.empty()" in message else f"unsuitable text ({message})"


def build_default() -> bytes:
    """Makes `default_32000.model` anew from this Python's own documentation (other versions make another model)."""
    from gato.tokenizers.corpus import stdlib_documents

    return train(stdlib_documents(), DEFAULT_SIZE)
