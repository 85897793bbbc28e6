"""What one spec becomes under a vocabulary and a layout: the columns of a timestep and their fixed properties.

Worked out once for each spec, so that tokenizing an episode is a handful of array operations a leaf.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gato.tokenizers import continuous, image
from gato.tokenizers.errors import SpecError, VocabularyError
from gato.tokenizers.layout import KINDS, Layout
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION
from gato.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Column:
    """The tokens that one leaf, or one special token, puts into every timestep.

    Attributes:
      part: observation, separator, action, derived or special.
      path: the leaf's path, or the special token's name.
      leaf: None for a special token, whose id is `token`.
      kind: index into `layout.KINDS`.
      weight: loss weight of its tokens.
      width: number of tokens; None for text, whose length varies.
      observed: whether its tokens have local positions. anew: whether these begin at 0 with this column.
      companded: whether a continuous leaf goes through the mu-law.
      ids: half-open range of the ids it can take.
    """

    part: str
    path: str
    leaf: LeafSpec | None
    kind: int
    weight: float
    width: int | None
    observed: bool = False
    anew: bool = False
    companded: bool = False
    token: int = -1
    ids: tuple[int, int] = (0, 0)

    @property
    def where(self) -> str:
        return f"{self.part} {self.path!r}"


@dataclasses.dataclass(frozen=True)
class Template:
    """What a timestep's tokens have whatever their values: arrays [width], given the width of every column.

    `starts` are the columns' offsets. `patch` counts the timestep's patches from 0 (-1: no patch); `intervals`
    [patches, 4] are theirs.
    """

    starts: tuple[int, ...]
    kinds: np.ndarray
    weights: np.ndarray
    observed: np.ndarray
    local: np.ndarray
    patch: np.ndarray
    intervals: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
    """The columns of a spec; `prefix` of them stand before the agent's own tokens (documents: before the end token)."""

    spec: EpisodeSpec
    columns: tuple[Column, ...]
    prefix: int
    templates: dict[tuple[int, ...], Template] = dataclasses.field(default_factory=dict)

    @property
    def actions(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.part == "action")

    def action_ranges(self) -> np.ndarray:
        """int32 [n, 2]: half-open range of the legal ids of each action token."""
        ranges = [column.ids for column in self.actions for _ in range(column.width or 0)]
        return np.array(ranges, np.int32).reshape(-1, 2)

    def template(self, widths: tuple[int, ...]) -> Template:
        """The template of the first ``len(widths)`` columns at these widths."""
        if widths not in self.templates:
            if len(self.templates) >= 1024:
                self.templates.clear()
            self.templates[widths] = _template(self.columns[: len(widths)], widths)
        return self.templates[widths]


def make_plan(spec: EpisodeSpec, vocabulary: Vocabulary, layout: Layout) -> Plan:
    """Raises `SpecError` or `VocabularyError` that names a leaf which cannot be tokenized in its place."""
    builder = _Builder(vocabulary, layout)
    return builder.document(spec) if spec.kind == "document" else builder.control(spec)


@dataclasses.dataclass(frozen=True)
class _Builder:
    vocabulary: Vocabulary
    layout: Layout

    def control(self, spec: EpisodeSpec) -> Plan:
        columns: list[Column] = []
        prefix = None
        for part in self.layout.timestep:
            if part == "separator":
                columns.append(self._special("separator", self.vocabulary.separator, "separator"))
            elif part == "observation":
                columns += [self._leaf(part, path, leaf) for path, leaf in _lexicographic(spec.observations)]
            elif part == "action":
                prefix = len(columns) if prefix is None else prefix
                columns += [self._leaf(part, path, leaf) for path, leaf in _lexicographic(spec.actions)]
            else:
                columns.append(self._leaf("derived", part, self.layout.derived[part]))
        return Plan(spec, tuple(columns), len(columns) if prefix is None else prefix)

    def document(self, spec: EpisodeSpec) -> Plan:
        columns: list[Column] = []
        modalities = {leaf.modality for leaf in spec.observations.values()}
        if not modalities <= {"text", "image"} or spec.actions:
            wrong = [
                *spec.actions,
                *(p for p, leaf in spec.observations.items() if leaf.modality not in ("text", "image")),
            ]
            raise SpecError(f"a document holds text and images only; {wrong[0]!r} belongs in a spec of kind 'control'")
        if modalities == {"text"}:
            columns.append(self._special("begin", self.vocabulary.begin, "special"))
        for path, leaf in spec.observations.items():
            column = self._leaf("observation", path, leaf)
            # Only patches have local positions here; a document's text is read in the order of the sequence alone. Each
            # picture's begin anew: Gato tokenizes (picture, text) pairs one by one and then concatenates them.
            picture = leaf.modality == "image"
            columns.append(dataclasses.replace(column, observed=picture, anew=picture))
        end = self._special("end", self.vocabulary.end, "text")
        return Plan(spec, (*columns, end), len(columns))

    def _special(self, name: str, token: int, kind: str) -> Column:
        part = "separator" if name == "separator" else "special"
        weight = float(self.layout.weights.get(kind, 0.0))
        return Column(part, name, None, KINDS.index(kind), weight, 1, token=token, ids=(token, token + 1))

    def _leaf(self, part: str, path: str, leaf: LeafSpec) -> Column:
        where = f"{part} {path!r}"
        if part != "observation" and leaf.modality not in ("continuous", "discrete"):
            raise SpecError(
                f"{where}: modality {leaf.modality}, but only continuous and discrete leaves can stand here"
            )
        companded = leaf.modality == "continuous" and continuous.is_companded(leaf, is_action=part == "action")
        if leaf.modality == "continuous":
            continuous.check_leaf(leaf, companded, part == "action", where)
        modality = "patch" if leaf.modality == "image" else leaf.modality
        kind = modality if part == "observation" else part
        weight = self.layout.weights.get(kind, 0.0)
        if part == "derived":
            weight = self.layout.weights.get(path, weight)
        width: int | None = None if modality == "text" else leaf.size
        ids = (self.vocabulary.padding, self.vocabulary.padding + 1)
        if modality == "patch":
            width = len(image.patch_intervals(*leaf.shape[:2]))
        else:
            try:
                ids = self.vocabulary.legal_ids(leaf, companded)
            except VocabularyError as error:
                raise VocabularyError(f"{where}: {error}") from None
        observed = part == "observation"
        return Column(part, path, leaf, KINDS.index(kind), float(weight), width, observed, companded=companded, ids=ids)


def _lexicographic(leaves: dict[str, LeafSpec]) -> list[tuple[str, LeafSpec]]:
    return sorted(leaves.items(), key=lambda item: item[0].split("."))


def _template(columns: tuple[Column, ...], widths: tuple[int, ...]) -> Template:
    ends = np.cumsum(widths, dtype=np.int64)
    observed = np.repeat([column.observed for column in columns], widths)
    action = np.repeat([column.part == "action" for column in columns], widths)
    is_patch = np.repeat([column.leaf is not None and column.leaf.modality == "image" for column in columns], widths)
    places = np.cumsum(observed) - 1
    for column, end, width in zip(columns, ends, widths, strict=True):
        if column.anew:
            places[end - width :] -= places[end - width]
    local = np.where(observed, places, np.where(action, ACTION_POSITION, NO_POSITION))
    intervals = [
        image.patch_intervals(*column.leaf.shape[:2])
        for column in columns
        if column.leaf is not None and column.leaf.modality == "image"
    ]
    return Template(
        starts=tuple(int(end) - width for end, width in zip(ends, widths, strict=True)),
        kinds=np.repeat(np.array([column.kind for column in columns], np.int8), widths),
        weights=np.repeat(np.array([column.weight for column in columns], np.float32), widths),
        observed=observed,
        local=local.astype(np.int16),
        patch=np.where(is_patch, np.cumsum(is_patch) - 1, -1).astype(np.int32),
        intervals=np.concatenate(intervals) if intervals else np.zeros((0, 4), np.int16),
    )
