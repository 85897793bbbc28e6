"""The one exception class behind every mistake that a user can make.

The command line prints such an error in one line and exits with its `status`; anything else is a bug of ours and keeps
its traceback. Messages name the place (file, field, episode), the value that was found and the way out.
"""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

TRANSIENT = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the command, start it again


# What the operating system refuses and only the user can mend. Its other errors are bugs, or over soon.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file stands where a directory is wanted, or the other way round
)


class GatoError(Exception):
    """A mistake that the user can mend: the message says where, what was found, and what to do.

    A message is one line. Where that cannot hold it, a table stands below an empty line, indented by two spaces.

    Attributes:
      status: what the command ends with. 2: the same command would fail again; `TRANSIENT`: it may well succeed.
    """

    status = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, so that what it holds open is closed."""

    status = 143


class SpecError(GatoError):
    """An episode, an observation or an action does not match its declared spec."""


class VocabularyError(GatoError):
    """A value cannot be held by the vocabulary, or two vocabularies differ."""


def status_of(error: BaseException) -> int | None:
    """What a command ends with after an error that the user can mend; None: a bug, which keeps its traceback."""
    if isinstance(error, GatoError):
        return error.status
    return GatoError.status if isinstance(error, OSError) and error.errno in REFUSALS else None


def printed(error: BaseException) -> str:
    """The message as the command line shows it: in one line, and the table below it, if there is one."""
    line, _, table = str(error).partition("\n\n")
    if not table.startswith("  "):
        return " ".join(str(error).split())
    return f"{' '.join(line.split())}\n{table}"


def run_program(main: Callable[[], None]) -> None:
    """Runs the ``main`` of a ``python -m`` program; a mistake is one line and its status, as of the command line."""
    try:
        main()
    except GatoError as error:
        print(f"gato: {printed(error)}", file=sys.stderr)
        sys.exit(error.status)


def suggest(name: str, known: Iterable[str], otherwise: Iterable[str] | None = None) -> str:
    """The way out of a wrong name: the nearest known one, else what there is (`otherwise`, if that is another list)."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = sorted(known if otherwise is None else otherwise)
    return f"known: {', '.join(shown[:20]) or 'none'}{' and more' if len(shown) > 20 else ''}"


def counted(number: int, what: str) -> str:
    """ "1 episode", "2,000 episodes"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
