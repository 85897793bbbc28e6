"""What an import needs to know: a reader for each format, and a `DatasetSpec` where a data set needs words of its own.

A *reader* opens data in somebody else's format and gives episodes by number. It is built anew in every process that
imports, so it is described by what can be sent there: the source as the user wrote it, and the options.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gato.data_pipelines.episode import Episode
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

# What a user says about a leaf: what it is; of integers only how many values they have; None leaves it out.
GivenLeaf = LeafSpec | int | None


class Reader(Protocol):
    """Opened data of one format.

    Attributes:
      name: of the source, unless the user gives another.
      spec: of the episodes, as the format describes them.
      metadata: about the source: format, version, task, ...
      jpeg: image leaves whose values are JPEG files.
      identity: a hash that changes when the data change, cheap to compute (names, sizes and times of the files).
      unreadable: errors of files that were found missing or damaged on opening. Reading a record of such a file raises
        its error; a file whose records cannot be counted is one record.
    """

    name: str
    spec: EpisodeSpec
    metadata: Mapping[str, Any]
    jpeg: Sequence[str]
    identity: str
    unreadable: Sequence[GatoError]

    def __len__(self) -> int:
        """Number of records; most formats have one episode in a record."""
        ...

    def read(self, index: int) -> Iterable[Episode | GatoError]:
        """The episodes of one record, with an ``episode_id`` in their metadata.

        Where a record has many, a bad one may be given as its error, in its place, and the next ones follow. A document
        without text is given as an `EmptyDocument`.

        Raises:
          GatoError: with the place; the rest of the record cannot be read.
        """
        ...

    def where(self, index: int, number: int = 0) -> str:
        """The place of the ``number``-th thing that ``read(index)`` gives, for messages: file, and episode in it."""
        ...


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """How the data of a robot, a game or a corpus become episodes, beyond what their format says.

    Attributes:
      name: of the source in mixtures and metrics, "group/name".
      source: folder or file of the data; None: given on the command line.
      format: name of a reader; "" finds it out.
      options: of the reader, see there (e.g. ``{"last_action": True}`` for ``rlds``).
      leaves: "observations.PATH" or "actions.PATH" -> what the leaf is, where the format does not say it. Of integers
        their number of values is enough; None leaves the leaf out.
      transform: the last word on each episode: may change, add and rename leaves; then `spec` says what comes out. None
        in its place of an episode leaves the episode out. Images are arrays, or image files as the format has them.
      spec: of the transformed episodes; None: the reader's, changed by `leaves`.
      metadata: added to the source's: task, agent, suite, ... (`task` names what the evaluation plays).
    """

    name: str = ""
    source: str | None = None
    format: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    leaves: Mapping[str, GivenLeaf] = dataclasses.field(default_factory=dict)
    transform: Callable[[Episode], Episode | None] | None = None
    spec: EpisodeSpec | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def identity_of(files: Iterable[Path], *words: object) -> str:
    """A hash of the names, sizes and times of files, and of further words."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(files):
        about = file.stat() if file.exists() else None
        size, changed = (about.st_size, about.st_mtime_ns) if about else ("missing", "")
        digest.update(f"{file.name}\0{size}\0{changed}\0".encode())
    digest.update(repr(words).encode())
    return digest.hexdigest()
