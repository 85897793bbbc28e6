"""From a format's arrays to leaves: what a leaf is, by its type, and its values as an `Episode` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any, TypeVar

import numpy as np

from gato.data_pipelines.dataset import GivenLeaf
from gato.data_pipelines.errors import SourceError
from gato.tokenizers.errors import suggest
from gato.tokenizers.spec import Bound, EpisodeSpec, LeafSpec, unflatten

# Pictures have at least so many pixels a side; smaller arrays of floats may well be quantities.
_PICTURE_SIDE = 8
# Ranges beyond this are a format's way of saying "unbounded".
_UNBOUNDED = 1e6
# Records that are tried before a source counts as unreadable.
_TRIED = 100

T = TypeVar("T")


class Leaves:
    """What each leaf of a source is: as the user says, else as the format says.

    Args:
      given: "observations.PATH" or "actions.PATH" -> what the user says (`DatasetSpec.leaves`).
      where: of the source, for messages.
    """

    def __init__(self, given: Mapping[str, GivenLeaf], where: str) -> None:
        self._given, self.where = dict(given), where
        self._seen: list[str] = []
        self._refused: SourceError | None = None  # the first; a misspelt name in `given` may be why

    def leaf(
        self,
        name: str,
        dtype: Any,
        shape: tuple[int, ...],
        *,
        values: int | None = None,
        low: Any = None,
        high: Any = None,
        image: bool = False,
    ) -> LeafSpec | None:
        """The leaf ``name``, or None where it is left out.

        Args:
          name: "observations.PATH" or "actions.PATH".
          dtype, shape: of one timestep; `str` or object for text.
          values: number of values of an integer; low, high: range of a float, where the format declares them.
          image: whether the format calls it an image.

        Raises:
          SourceError: the user says integers, but the leaf holds others. What nobody describes (integers without a
            number of values, pictures as floats, unknown types) is refused by `check`, when all leaves were seen.
        """
        self._seen.append(name)
        given = self._given.get(name)
        if isinstance(given, LeafSpec) or (given is None and name in self._given):
            return given
        dtype = np.dtype(dtype)
        if given is not None:
            if dtype.kind not in "iubf" or given < 1:
                raise SourceError(f"{self.where}: {name} holds {dtype}, no integers 0..{given - 1}")
            return LeafSpec("discrete", shape, values=given)
        try:
            return self._inferred(name, dtype, shape, values, _bounds(low, high), image)
        except SourceError as error:
            self._refused = self._refused or error
            return None

    def _inferred(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        values: int | None,
        bounds: tuple[Bound, Bound] | None,
        image: bool,
    ) -> LeafSpec:
        if dtype.kind in "OSU":
            return LeafSpec("text")
        if image or (dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3)):
            return LeafSpec("image", shape)
        if dtype == np.bool_:
            return LeafSpec("discrete", shape, values=2)
        if dtype.kind in "iu":
            if values is None:
                picture = dtype == np.uint8 and len(shape) == 3
                hint = f"; is it a picture? Those are [H, W, 1 or 3], and this is {list(shape)}" if picture else ""
                raise SourceError(
                    f"{self.where}: {name} holds integers, and the format does not say how many values they "
                    f"have{hint}. Say it: --values {name}=N, or in a DatasetSpec leaves={{{name!r}: N}} "
                    f"(LeafSpec('continuous', {shape}) if they are quantities, None to leave it out)"
                )
            return LeafSpec("discrete", shape, values=values)
        if dtype.kind == "f":
            if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= _PICTURE_SIDE:
                raise SourceError(
                    f"{self.where}: {name} holds {dtype} of shape {shape} and looks like a picture: store it as uint8. "
                    f"Or declare that these are {int(np.prod(shape)):,} quantities a step, in a DatasetSpec: "
                    f"leaves={{{name!r}: LeafSpec('continuous', {shape})}} (of npz and HDF5 also in spec.json; None "
                    "leaves it out)"
                )
            if bounds is None and name.startswith("actions."):
                bounds = -1.0, 1.0  # an action needs a range; that it is this one is checked with every value
            return LeafSpec("continuous", shape, *bounds) if bounds else LeafSpec("continuous", shape)
        raise SourceError(
            f"{self.where}: {name} has type {dtype}, which no tokenizer knows; leave it out: leaves={{{name!r}: None}}"
        )

    def left_out(self, name: str) -> bool:
        """Whether the user leaves this leaf out; nothing is asked about it then."""
        if name in self._given and self._given[name] is None:
            self._seen.append(name)
            return True
        return False

    def check(self) -> None:
        """After all leaves: raises SourceError if the user named one that is not there, or left one undescribed."""
        for name in self._given:
            if name not in self._seen:
                ends = [seen for seen in self._seen if seen.endswith(f".{name}")]
                way_out = f"did you mean {ends[0]!r}?" if ends else suggest(name, self._seen)
                raise SourceError(f"{self.where}: has no leaf {name!r}; {way_out}")
        if self._refused is not None:
            raise self._refused


def control_spec(found: Mapping[str, Mapping[str, LeafSpec]], where: str) -> EpisodeSpec:
    """The spec of "observations" and "actions" -> path ("a.b") -> leaf, in the order that tokens have."""
    try:
        return EpisodeSpec.of(unflatten(found["observations"]), unflatten(found["actions"]))
    except (TypeError, AttributeError):
        raise SourceError(f"{where}: a leaf has the name of a group of leaves; rename one of them") from None


def first_good(records: int, read: Callable[[int], T]) -> T:
    """What ``read(index)`` gives for the first record that can be read: the model of all the others.

    A damaged record at the very beginning must not keep ``skip`` from leaving it out; whether it may be left out is
    decided where it is imported.

    Raises:
      SourceError: none of the first records can be read; the first one's own error.
    """
    first: SourceError | None = None
    for index in range(min(records, _TRIED)):
        try:
            return read(index)
        except SourceError as error:
            first = first or error
    raise first or SourceError("no record")


def _bounds(low: Any, high: Any) -> tuple[Bound, Bound] | None:
    if low is None or high is None:
        return None
    lows, highs = np.asarray(low, np.float64).ravel(), np.asarray(high, np.float64).ravel()
    if not (np.abs(lows) < _UNBOUNDED).all() or not (np.abs(highs) < _UNBOUNDED).all() or not (lows < highs).all():
        return None
    if (lows == lows[0]).all() and (highs == highs[0]).all():
        return float(lows[0]), float(highs[0])
    return tuple(lows.tolist()), tuple(highs.tolist())


def values_of(raw: Any, leaf: LeafSpec, where: str) -> Any:
    """The values of a leaf [T, ...] as an `Episode` holds them: strings, uint8, int64 or float32.

    Raises:
      SourceError: text that is not UTF-8, or numbers of another kind or shape than the leaf says.
    """
    if leaf.modality == "text":
        return [_text(value, f"{where}: step {step}") for step, value in enumerate(_items(raw))]
    if leaf.modality == "image" and len(raw) and isinstance(raw[0], bytes):
        return list(raw)
    array = np.asarray(raw)
    if array.ndim < 1:
        raise SourceError(f"{where}: a single value; a leaf has one for each timestep")
    if array.shape[1:] != leaf.shape:
        if not _same_in_another_shape(array.shape[1:], leaf):
            raise SourceError(f"{where}: shape {array.shape[1:]} a step, the spec says {leaf.shape}")
        array = array.reshape(len(array), *leaf.shape)
    if leaf.modality == "image":
        return array
    if array.dtype.kind not in "fiub":
        raise SourceError(f"{where}: values of type {array.dtype} are no numbers")
    if leaf.modality == "continuous":
        return array.astype(np.float32)
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        raise SourceError(f"{where}: fractions, but discrete values are integers; say LeafSpec('continuous', ...)")
    return array.astype(np.int64)


def check_rewards(rewards: Sized, leaves: Mapping[str, Sized], where: str) -> None:
    """Raises SourceError if the rewards are as many as no leaf has values: else a leaf would be blamed for them."""
    lengths = {name: len(values) for name, values in leaves.items()}
    if lengths and len(rewards) not in lengths.values():
        name = next((name for name in lengths if name.startswith("actions.")), min(lengths))
        raise SourceError(f"{where}: rewards: {len(rewards)} of them, but {name} has {lengths[name]} steps")


def stacked(raw: list[Any], where: str) -> np.ndarray:
    """The values of T timesteps as one array [T, ...]. Raises SourceError that names a step of another shape."""
    shape = np.shape(raw[0])
    for step, value in enumerate(raw):
        if np.shape(value) != shape:
            raise SourceError(f"{where}: step {step}: shape {np.shape(value)}, but step 0 has {shape}")
    return np.stack(raw)


def _same_in_another_shape(shape: tuple[int, ...], leaf: LeafSpec) -> bool:
    """Whether reading the values in the leaf's shape is what was meant, and cannot be an accident.

    Equal sizes are not enough: frames of 96x64 pixels among such of 64x96 would become stripes.
    """
    if leaf.modality == "image":
        return (*shape, 1) == leaf.shape  # grey pictures without an axis for their channel
    if {shape, leaf.shape} == {(), (1,)}:
        return True
    return len(shape) == 1 and shape[0] == leaf.size  # a flat vector that the user gave a shape


def _items(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else np.asarray(raw, object).ravel().tolist()


def _text(value: Any, where: str) -> str:
    if isinstance(value, (bytes, np.bytes_)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{where}: text that is not UTF-8 ({error.reason} at byte {error.start})") from None
    if not isinstance(value, str):
        raise SourceError(f"{where}: {type(value).__name__} instead of text")
    return str(value)
