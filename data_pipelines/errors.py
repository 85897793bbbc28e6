"""Mistakes that a user of the data pipelines can make; each message says where, what was found, and the way out."""

from __future__ import annotations

from gato.tokenizers.errors import GatoError


class StoreError(GatoError):
    """A training store is missing, damaged, of another version, or cannot be written."""


class MixtureError(GatoError):
    """A source cannot take part in a mixture as configured: weight, filter, window, prompt or row length."""


class ResumeError(GatoError):
    """A saved data position belongs to other data, another tokenizer or other settings."""


class SourceError(GatoError):
    """Data of another format are damaged, contradict their own description, or need a word from the user."""


class EmptyDocument(SourceError):
    """A document has no text. An import leaves it out whatever it was told about bad data, and counts it."""
