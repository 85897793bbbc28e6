"""Episodes and documents -> token sequences, and action tokens -> actions: order and loss mask of Gato's section 2.

A control timestep is its observation leaves in lexicographic order of their keys, a separator, and its action leaves; a
recipe's `Layout` may add derived tokens and reorder the parts. A document is its leaves in declared order and an end
token. Everything is vectorised over the timesteps of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gato.tokenizers import continuous, discrete, image
from gato.tokenizers.errors import SpecError, VocabularyError
from gato.tokenizers.layout import Layout
from gato.tokenizers.plan import Column, Plan, Template, make_plan
from gato.tokenizers.spec import EpisodeSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION, TokenSequence, concatenate
from gato.tokenizers.vocabulary import Vocabulary

__all__ = ["ACTION_POSITION", "NO_POSITION", "SequenceTokenizer", "TokenSequence", "concatenate"]


def _present(columns: tuple[Column, ...], observations: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a document up to its first leaf that is not there."""
    for i, column in enumerate(columns):
        if column.leaf is not None and column.path not in observations:
            later = [c.path for c in columns[i:] if c.leaf is not None and c.path in observations]
            if later:
                raise SpecError(
                    f"document leaf {column.path!r} is missing, but {later[0]!r}, which follows it, is there"
                )
            return columns[:i]
    return columns


class SequenceTokenizer:
    """Turns episodes into `TokenSequence`s and action tokens into actions.

    Attributes:
      vocabulary, text, layout: as given.
      local_positions: size of the model's table of local positions; a longer observation is an error.
    """

    def __init__(
        self, vocabulary: Vocabulary, text: TextTokenizer | None, layout: Layout, local_positions: int = 512
    ) -> None:
        """`text` may be None where all text comes as ids. Raises VocabularyError if `text` has too many pieces."""
        if text is not None and text.size > vocabulary.text_size:
            raise VocabularyError(
                f"the SentencePiece model has {text.size} pieces, the vocabulary only {vocabulary.text_size} text ids: "
                f"build it with Vocabulary(text_size={text.size})"
            )
        self.vocabulary = vocabulary
        self.text = text
        self.layout = layout
        self.local_positions = local_positions
        self._plans: dict[int, Plan] = {}

    def tokenize(
        self,
        observations: Mapping[str, Any],
        actions: Mapping[str, Any] | None,
        spec: EpisodeSpec,
        derived: Mapping[str, Any] | None = None,
    ) -> TokenSequence:
        """Tokens of an episode's T timesteps, or of a document.

        Args:
          observations: leaf path -> array [T, *shape]. Text: T strings, or T integer arrays of ids.
          actions: leaf path -> array [T, *shape], ``{}`` for a document. None: the prefix that an agent sees before it
            acts, i.e. the parts before "action"; of a document, the leaves that are there (trailing ones may be
            missing) without the end token.
          spec: the leaves.
          derived: name -> array [T, *shape] for every derived part of the layout.

        Raises:
          SpecError: a leaf is missing, has another shape or dtype, a NaN, an infinity, or an undeclared discrete value;
            or an observation is longer than the table of local positions. The message names the leaf.
        """
        plan = self._plan(spec)
        columns = plan.columns if actions is not None else plan.columns[: plan.prefix]
        if spec.kind == "document" and actions is None:
            columns = _present(columns, observations)
        sources = {"observation": observations, "action": actions or {}, "derived": derived or {}}
        steps = -1
        values: list[Any] = []
        for column in columns:
            if column.leaf is None:
                values.append(None)
                continue
            if column.path not in sources[column.part]:
                raise SpecError(f"{column.part} leaf {column.path!r} is in the spec, but no value was given for it")
            value = sources[column.part][column.path]
            if column.leaf.modality != "text":
                value = np.asarray(value)
            if isinstance(value, str) or getattr(value, "ndim", 1) == 0:
                raise SpecError(f"{column.where}: one value, but one for each timestep is needed (a leading axis of T)")
            if steps >= 0 and len(value) != steps:
                raise SpecError(f"{column.where}: {len(value)} steps, but other leaves have {steps}")
            steps = len(value)
            values.append(value)
        if steps < 0 and spec.kind == "control":
            raise SpecError("no leaf to tokenize: the spec has no observation and no action")
        steps = abs(steps)  # a document's prefix may be its begin token alone
        if spec.kind == "document" and steps != 1:
            raise SpecError(f"a document is one timestep, got {steps}")
        return self._assemble(plan, columns, values, steps)

    def decode_actions(self, ids: np.ndarray, spec: EpisodeSpec) -> dict[str, np.ndarray]:
        """Actions of token ids [..., n], n as in `action_ranges`: leaf path -> array [..., *shape], within its range.

        Continuous leaves are float64 at their bin's centre, discrete ones int32.

        Raises:
          SpecError: the number of tokens is wrong, or an id is not legal for its leaf (see `action_ranges`).
        """
        plan = self._plan(spec)
        ids = np.asarray(ids)
        ranges = plan.action_ranges()
        if ids.ndim == 0 or ids.shape[-1] != len(ranges):
            raise SpecError(f"{ids.shape} action tokens, but an action of this spec has {len(ranges)}")
        actions: dict[str, np.ndarray] = {}
        start = 0
        for column in plan.actions:
            assert column.leaf is not None
            assert column.width is not None
            stop = start + column.width
            tokens = ids[..., start:stop]
            illegal = (tokens < ranges[start:stop, 0]) | (tokens >= ranges[start:stop, 1])
            if illegal.any():
                low, high = ranges[start]
                raise SpecError(
                    f"action {column.path!r}: token {tokens[illegal][0]} is not in its range [{low}, {high})"
                )
            tokens = tokens.reshape((*ids.shape[:-1], *column.leaf.shape))
            if column.leaf.modality == "discrete":
                actions[column.path] = discrete.decode(tokens)
            else:
                bins = tokens - self.vocabulary.text_size
                actions[column.path] = continuous.decode(bins, column.leaf, column.companded, is_action=True)
            start = stop
        return actions

    def action_ranges(self, spec: EpisodeSpec) -> np.ndarray:
        """int32 [n, 2]: the half-open range of legal ids of each action token, in their order."""
        return self._plan(spec).action_ranges()

    def tokens_per_timestep(self, spec: EpisodeSpec, text_tokens: int = 0) -> int:
        """Tokens of one timestep (or document) whose text leaves have `text_tokens` tokens altogether."""
        return text_tokens + sum(column.width or 0 for column in self._plan(spec).columns)

    def observed_tokens(self, spec: EpisodeSpec, text_tokens: int = 0) -> int:
        """Local positions that one timestep needs whose text leaves have `text_tokens` tokens altogether.

        Of a document, those of its largest picture: each picture's begin anew, and text has none.
        """
        widths = [column.width or 0 for column in self._plan(spec).columns if column.observed]
        return max(widths, default=0) if spec.kind == "document" else text_tokens + sum(widths)

    def _plan(self, spec: EpisodeSpec) -> Plan:
        plan = self._plans.get(id(spec))
        if plan is None:
            if len(self._plans) >= 1024:
                self._plans.clear()
            # The plan keeps its spec alive, so no other spec can take this id while the plan is here.
            plan = self._plans[id(spec)] = make_plan(spec, self.vocabulary, self.layout)
        return plan

    def _assemble(self, plan: Plan, columns: tuple[Column, ...], values: Sequence[Any], steps: int) -> TokenSequence:
        texts = {i: self._texts(c, values[i]) for i, c in enumerate(columns) if c.width is None}
        lengths = {i: np.fromiter(map(len, text), np.int32, steps) for i, text in texts.items()}
        widths = tuple(int(lengths[i].max(initial=0)) if c.width is None else c.width for i, c in enumerate(columns))
        template = plan.template(widths)
        width = len(template.kinds)
        ids_TW = np.empty((steps, width), np.int32)
        valid_TW: np.ndarray | None = None
        patches: list[np.ndarray] = []
        for i, column in enumerate(columns):
            start, stop = template.starts[i], template.starts[i] + widths[i]
            if i in texts:
                if (lengths[i] == widths[i]).all():
                    if len(set(map(id, texts[i]))) == 1:
                        ids_TW[:, start:stop] = texts[i][0]
                    else:
                        ids_TW[:, start:stop] = texts[i]
                    continue
                valid_TW = np.ones((steps, width), bool) if valid_TW is None else valid_TW
                valid_TW[:, start:stop] = np.arange(widths[i]) < lengths[i][:, None]
                ids_TW[:, start:stop][valid_TW[:, start:stop]] = np.concatenate(texts[i])
            elif column.leaf is None:
                ids_TW[:, start:stop] = column.token
            elif column.leaf.modality == "image":
                self._check_shape(column, values[i])
                patches.append(image.to_patches(values[i], column.where))
                ids_TW[:, start:stop] = self.vocabulary.padding
            else:
                ids_TW[:, start:stop] = self._encode(column, values[i])
        return self._flatten(template, ids_TW, valid_TW, patches)

    def _flatten(
        self, template: Template, ids_TW: np.ndarray, valid_TW: np.ndarray | None, patches: list[np.ndarray]
    ) -> TokenSequence:
        steps, width = ids_TW.shape
        n_patches = len(template.intervals)

        def every_step(row: np.ndarray) -> np.ndarray:
            return np.broadcast_to(row, (steps, width))

        local_TW = every_step(template.local)
        if valid_TW is not None:
            observed_TW = template.observed & valid_TW
            local_TW = np.where(observed_TW, np.cumsum(observed_TW, axis=1) - 1, local_TW)
        longest = int(local_TW.max(initial=-1)) + 1
        if longest > self.local_positions:
            raise SpecError(
                f"an observation has {longest} tokens, but there are {self.local_positions} local positions: "
                "set local_positions of the model and of the tokenizer higher, or observe less"
            )
        patch_TW = every_step(template.patch)
        if n_patches:
            patch_TW = np.where(
                patch_TW >= 0, patch_TW + np.arange(steps, dtype=np.int32)[:, None] * n_patches, patch_TW
            )
        counts = np.full(steps, width) if valid_TW is None else valid_TW.sum(axis=1)
        starts = np.zeros(steps + 1, np.int32)
        np.cumsum(counts, out=starts[1:])

        def flat(array_TW: np.ndarray) -> np.ndarray:
            return array_TW.reshape(-1) if valid_TW is None else array_TW[valid_TW]

        if not patches:
            pixels = np.zeros((0, image.PATCH, image.PATCH, 3), np.uint8)
        else:
            joined = patches[0] if len(patches) == 1 else np.concatenate(patches, axis=1)
            pixels = joined.reshape(-1, image.PATCH, image.PATCH, 3)
        return TokenSequence(
            ids=flat(ids_TW),
            loss_weight=flat(every_step(template.weights)),
            local_position=flat(local_TW).astype(np.int16, copy=False),
            timestep=np.repeat(np.arange(steps, dtype=np.int32), counts),
            kinds=flat(every_step(template.kinds)),
            patch_index=flat(patch_TW),
            patches=pixels,
            patch_intervals=np.tile(template.intervals, (steps, 1)),
            timestep_starts=starts,
        )

    def _texts(self, column: Column, value: Any) -> list[np.ndarray]:
        """Ids of each step's text."""
        if len(value) and isinstance(value[0], str):
            if self.text is None:
                raise SpecError(f"{column.where}: a string, but this tokenizer was made without a text model")
            return self.text.encode_batch(value, column.where)
        texts = [np.asarray(ids) for ids in value]
        for ids in texts:
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise SpecError(f"{column.where}: neither a string nor a row of integer ids")
            if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary.text_size):
                raise SpecError(f"{column.where}: a text id outside 0..{self.vocabulary.text_size - 1}")
        return texts

    def _encode(self, column: Column, value: np.ndarray) -> np.ndarray:
        assert column.leaf is not None
        self._check_shape(column, value)
        if column.leaf.modality == "discrete":
            return discrete.encode(value, column.leaf, column.where).reshape(len(value), -1)
        is_action = column.part == "action"
        bins = continuous.encode(value, column.leaf, column.companded, is_action, column.where)
        bins += self.vocabulary.text_size
        return bins.reshape(len(value), -1)

    def _check_shape(self, column: Column, value: np.ndarray) -> None:
        assert column.leaf is not None
        if value.shape[1:] != column.leaf.shape:
            raise SpecError(f"{column.where}: shape {value.shape[1:]} a step, but the spec says {column.leaf.shape}")
