"""What a store holds, leaf by leaf, and what is wrong with it: people look at this before they spend a pod-week."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gato.data_pipelines.draws import permutation
from gato.data_pipelines.episode import mistakes
from gato.data_pipelines.progress import progress as show_progress
from gato.data_pipelines.ranges import outside
from gato.data_pipelines.store import Store
from gato.tokenizers.continuous import M as MU_LAW_LIMIT
from gato.tokenizers.continuous import is_companded
from gato.tokenizers.errors import GatoError
from gato.tokenizers.spec import LeafSpec

LISTED = 20  # bad episodes that a terminal or a page shows; a `StoreReport` has them all
DISTINCT = 100_000  # different values that are told apart; a corpus has as many texts as documents


@dataclasses.dataclass
class LeafReport:
    """One leaf of a store.

    Attributes:
      name: "observations.PATH" or "actions.PATH". spec: as declared.
      low, high, mean: over all finite values (of text: the length in characters; of images: 0..255).
      constant: dimensions that never change. dimensions: scalars of a timestep.
      not_finite: share of values that are NaN or infinite.
      outside: share of values outside the declared range.
      saturated: share of companded values beyond the mu-law's range, which all become the same token.
      distinct: of discrete leaves and text: how many different values occur; counted up to DISTINCT.
    """

    name: str
    spec: LeafSpec
    low: float = np.inf
    high: float = -np.inf
    mean: float = 0.0
    constant: int = 0
    dimensions: int = 1
    not_finite: float = 0.0
    outside: float = 0.0
    saturated: float = 0.0
    distinct: int | None = None


@dataclasses.dataclass
class StoreReport:
    """A store.

    Attributes:
      episodes, timesteps: that it holds; checked: episodes that were read.
      lengths, returns: quantiles 0, 25, 50, 75, 100 %.
      leaves: one report each. bytes: on the disk.
      violations: (episode, message) of each bad episode: file, episode, leaf and step of each thing that is wrong.
      skipped: records that the import left out. kind: of the episodes, "control" or "document".
    """

    name: str
    path: Path
    episodes: int
    timesteps: int
    checked: int
    lengths: list[float]
    returns: list[float]
    leaves: list[LeafReport]
    bytes: int
    metadata: dict[str, Any]
    violations: list[tuple[int, str]]
    skipped: int
    kind: str

    @property
    def violated(self) -> int:
        """How many episodes are bad."""
        return len(self.violations)

    def to_json(self) -> dict[str, Any]:
        """JSON values of everything."""
        report = dataclasses.asdict(self)
        leaves = [{**dataclasses.asdict(leaf), "spec": leaf.spec.to_json()} for leaf in self.leaves]
        return {**report, "path": str(self.path), "leaves": leaves, "violated": self.violated}


def check_store(path: Path | str, episodes: int | None = None, progress: bool = True) -> StoreReport:
    """Reads a store and reports on it.

    Args:
      episodes: read so many, drawn at random; None reads all.
      progress: whether to show it on stderr.

    Raises:
      StoreError: the store cannot be opened. Damage inside it is a violation of the report.
    """
    store = Store(path)
    chosen = np.arange(len(store))
    if episodes is not None and episodes < len(store):
        chosen = np.sort(permutation(len(store), "check", store.fingerprint)[:episodes])
    measures = {
        f"{group}.{leaf_path}": _Measure(f"{group}.{leaf_path}", leaf)
        for group, leaves in (("observations", store.spec.observations), ("actions", store.spec.actions))
        for leaf_path, leaf in leaves.items()
    }
    violations: list[tuple[int, str]] = []
    with show_progress(len(chosen), "checking", progress) as advance:
        for number in chosen.tolist():
            wrong = _check_episode(store, number, measures)
            advance(1, store.name)
            if wrong:
                violations.append((number, "; ".join(wrong)))
    quantiles = (0, 25, 50, 75, 100)
    return StoreReport(
        name=store.name,
        path=store.path,
        episodes=len(store),
        timesteps=int(store.lengths.sum(dtype=np.int64)),
        checked=len(chosen),
        lengths=np.percentile(store.lengths, quantiles).tolist(),
        returns=np.percentile(store.returns, quantiles).tolist(),
        leaves=[measure.report() for measure in measures.values()],
        bytes=sum(shard["bytes"] for shard in store.shards),
        metadata=store.metadata,
        violations=violations,
        skipped=int(store.metadata.get("import", {}).get("skipped", 0)),
        kind=store.spec.kind,
    )


def _check_episode(store: Store, number: int, measures: dict[str, _Measure]) -> list[str]:
    """Adds an episode to the statistics; returns what is wrong with it, in words that name the place."""
    try:
        episode = store.episode(number)
    except GatoError as error:
        return [f"episode {number}: {error}"]
    wrong = list(mistakes(episode, store.spec))
    for name, measure in measures.items():
        group, _, leaf_path = name.partition(".")
        values = (episode.observations if group == "observations" else episode.actions)[leaf_path]
        wrong += measure.add(values)
    return [f"{store.file_of(number)}: episode {number}: {wrong[0]}", *wrong[1:]] if wrong else []


class _Measure:
    """Running statistics of one leaf."""

    def __init__(self, name: str, leaf: LeafSpec) -> None:
        self._report = LeafReport(name, leaf, dimensions=max(leaf.size, 1))
        self._leaf = leaf
        self._companded = leaf.modality == "continuous" and is_companded(leaf, name.startswith("actions."))
        self._values = self._not_finite = 0
        self._count = self._outside = self._saturated = 0  # of timesteps that are finite
        self._sum = 0.0
        self._low = self._high = np.zeros(0)
        self._seen: set[int] = set()  # values, or hashes of texts: never the texts themselves

    def add(self, values: Any) -> list[str]:
        """Counts the values [T, ...] of an episode; returns what is outside its range, in words."""
        leaf = self._leaf
        words: list[str] = []
        if leaf.modality == "text":
            flat = np.array([[len(text)] for text in values], np.float64)
        else:
            flat = np.asarray(values).reshape(len(values), -1)
        if leaf.modality in ("discrete", "text") and len(self._seen) < DISTINCT:
            self._seen.update(map(hash, values) if leaf.modality == "text" else np.unique(flat).tolist())
        self._values += flat.size
        steps = np.arange(len(flat))
        if leaf.modality == "continuous":
            finite = np.isfinite(flat)
            self._not_finite += int(flat.size - finite.sum())
            steps = np.flatnonzero(finite.all(axis=1))
            flat = flat[steps]
        if not len(flat):
            return words
        low, high = flat.min(axis=0), flat.max(axis=0)
        self._low = low if not self._low.size else np.minimum(self._low, low)
        self._high = high if not self._high.size else np.maximum(self._high, high)
        self._count += flat.size
        self._sum += float(flat.sum(dtype=np.float64))
        bad = outside(flat.reshape(-1, *leaf.shape), leaf)
        if bad is not None:
            bad = bad.reshape(flat.shape)
            self._outside += int(bad.sum())
            if bad.any():
                step = int(steps[np.argwhere(bad)[0][0]])
                words.append(f"{self._report.name}: step {step}: {flat[bad][0]:g} outside {leaf.low}..{leaf.high}")
        if self._companded:
            self._saturated += int((np.abs(flat) > MU_LAW_LIMIT).sum())
        return words

    def report(self) -> LeafReport:
        report = self._report
        if self._values:
            report.not_finite = self._not_finite / self._values
        if not self._count:
            return report
        report.low, report.high = float(self._low.min()), float(self._high.max())
        report.mean = self._sum / self._count
        report.constant = int((self._low == self._high).sum())
        report.outside, report.saturated = self._outside / self._count, self._saturated / self._count
        if self._leaf.modality in ("discrete", "text"):
            report.distinct = min(len(self._seen), DISTINCT)
        if self._leaf.modality == "text":
            report.constant = int(report.distinct == 1)  # not: of one length
        return report
