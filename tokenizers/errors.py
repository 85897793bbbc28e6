"""The one exception class behind every mistake that a user can make.

The command line prints such an error in one line and exits with status 2; anything else is a bug of ours and keeps its
traceback. Messages name the place (file, field, episode), the value that was found and the way out.
"""


class GatoError(Exception):
    """A mistake that the user can mend: the message says where, what was found, and what to do."""


class SpecError(GatoError):
    """An episode, an observation or an action does not match its declared spec."""


class VocabularyError(GatoError):
    """A value cannot be held by the vocabulary, or two vocabularies differ."""
