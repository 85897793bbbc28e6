"""The sources of a run: which stores, with which weight, filter, windows and prompts, checked when they are opened."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from gato.data_pipelines import filters
from gato.data_pipelines.errors import MixtureError
from gato.data_pipelines.prompts import PromptPool
from gato.data_pipelines.store import Store
from gato.data_pipelines.token_index import TokenIndex
from gato.data_pipelines.windows import EpochPlan, WindowRules, plan_epoch
from gato.tokenizers.layout import KINDS
from gato.tokenizers.sequence import SequenceTokenizer

Split = Literal["train", "held_out"]


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture.

    Attributes:
      path: folder of the store.
      weight: share of the tokens, relative to the other sources.
      loss_weight: factor on the loss of all its tokens. One action in 60 tokens weighs little beside 30 words of a
        caption; a larger factor makes up for that. The paper has 1 everywhere.
      loss_kinds: the kinds of token that are learned, e.g. ``("action",)``; None for all that the recipe weighs. Text
        that nobody can foresee, like randomly drawn instructions, teaches nothing and its loss is noise.
      window_timesteps: timesteps in a training window at most; None for as many as a row holds. Control sources only.
      prompt_probability: share of the sequences of a control source that are prompted (Gato section 2.3: a quarter).
        At most a half is possible where windows fill the row and must make room for a prompt.
      prompt_timesteps: timesteps of a prompt at most; None for half a row.
      expert_filter: keep episodes whose return is at least this share of the expert return; None keeps all. Documents
        have no return and are all kept.
      held_out_episodes: episodes kept out of training, for validation and for prompts at evaluation.
    """

    path: str | os.PathLike[str]
    weight: float = 1.0
    loss_weight: float = 1.0
    loss_kinds: tuple[str, ...] | None = None
    window_timesteps: int | None = None
    prompt_probability: float = 0.25
    prompt_timesteps: int | None = None
    expert_filter: float | None = 0.8
    held_out_episodes: int = 0

    def learned(self) -> np.ndarray:
        """Bool [kinds], in the order of `KINDS`: the kinds of token of `loss_kinds`."""
        chosen = set(KINDS if self.loss_kinds is None else self.loss_kinds)
        return np.array([kind in chosen for kind in KINDS])


def split_episodes(store: Store, config: SourceConfig, seed: int) -> dict[Split, np.ndarray]:
    """The store's episodes that pass the filter, in two disjoint parts: int64, ascending indices into the store.

    Args:
      seed: of the run; decides which episodes are held out.

    Raises:
      MixtureError: the filter keeps nothing, or nothing would be left to train on.
    """
    kept = np.arange(len(store))
    if config.expert_filter is not None and store.spec.kind != "document":
        kept = kept[filters.keep_expert(store.returns, store.groups, config.expert_filter)]
    if not len(kept):
        best = float(store.returns.max())
        raise MixtureError(
            f"{store.name}: expert_filter={config.expert_filter} keeps none of {len(store)} episodes "
            f"(best return {best:g}); lower it, or set None where returns are negative"
        )
    if config.held_out_episodes >= len(kept):
        filtered = len(kept) < len(store)
        limit = f"{len(kept) - 1} or less" if len(kept) > 1 else "0"
        there = "is only 1 episode" if len(kept) == 1 else f"are only {len(kept)} episodes"
        there += f" of {len(store)} that expert_filter={config.expert_filter} keeps" if filtered else ""
        raise MixtureError(
            f"{store.name}: held_out_episodes={config.held_out_episodes} leaves nothing to train on: there {there}; "
            f"set it to {limit}{', or lower expert_filter' if filtered else ''}"
        )
    train, held_out = filters.hold_out(kept, config.held_out_episodes, seed, store.name)
    return {"train": train, "held_out": held_out}


class Source:
    """An opened source: its store, its token counts, and the episodes of its two splits.

    Attributes:
      name: of the store. config: as given. share: of the mixture's tokens, in (0, 1].
      episodes: split -> int64, ascending indices into the store.
      learned: bool [kinds], in the order of `KINDS`: `SourceConfig.loss_kinds`.
    """

    def __init__(
        self, config: SourceConfig, share: float, tokenizer: SequenceTokenizer, length: int, seed: int
    ) -> None:
        self.config, self.share = config, share
        self.store = Store(config.path)
        self.name = self.store.name
        document = self.store.spec.kind == "document"
        self._check_loss(tokenizer)
        self.learned = config.learned()
        self.index = TokenIndex(self.store, tokenizer, self.learned)
        self._check(document, length)
        self.episodes = split_episodes(self.store, config, seed)
        self.rules = WindowRules(
            length,
            None if document else config.window_timesteps,
            0.0 if document else config.prompt_probability,
            config.prompt_timesteps,
        )
        self._pools = {split: PromptPool(chosen, self.store.groups) for split, chosen in self.episodes.items()}

    def plan(self, split: Split, seed: int, epoch: int) -> EpochPlan:
        """The sequences of one epoch of one split."""
        return plan_epoch(
            self.index, self.episodes[split], self._pools[split], self.rules, seed, split, self.name, epoch
        )

    def longest_window(self, split: Split) -> int:
        """Tokens of the longest window that a plan can hold."""
        episodes, rules = self.episodes[split], self.rules
        widest = self.index.widest[episodes]
        window = rules.length // widest if rules.window is None else np.minimum(rules.window, rules.length // widest)
        return int(np.minimum(self.index.totals[episodes], window * widest).max())

    def fingerprint(self) -> dict[str, Any]:
        """What the row order depends on."""
        config = dataclasses.asdict(self.config)
        config.pop("path")  # the same data may lie elsewhere
        if self.config.loss_kinds is not None:
            config["loss_kinds"] = list(self.config.loss_kinds)  # as JSON reads it back
        return {"data": self.store.fingerprint, **config, "weight": round(self.share, 12)}

    def _check_loss(self, tokenizer: SequenceTokenizer) -> None:
        config, weights = self.config, tokenizer.layout.weights
        if not 0 < config.loss_weight < math.inf:
            raise MixtureError(
                f"{self.name}: loss_weight={config.loss_weight} must be positive and finite; "
                "leave the source out to learn nothing from it"
            )
        for kind in config.loss_kinds or ():
            if not weights.get(kind):
                raise MixtureError(
                    f"{self.name}: loss_kinds has {kind!r}, but the recipe learns "
                    f"{', '.join(name for name, weight in weights.items() if weight)}"
                )
        if config.loss_kinds is not None and not config.loss_kinds:
            raise MixtureError(f"{self.name}: loss_kinds is empty; leave the source out to learn nothing from it")

    def _check(self, document: bool, length: int) -> None:
        config, where = self.config, self.name
        widest = int(self.index.widest.max())
        if widest > length:
            episode = int(np.argmax(self.index.widest))
            what = f"document {episode}" if document else f"a timestep of episode {episode}"
            raise MixtureError(
                f"{where}: {what} has {widest} tokens, a row has {length}: use rows of at least {widest} tokens, "
                "or observe less"
            )
        if config.window_timesteps is not None:
            if document or config.window_timesteps < 1:
                raise MixtureError(
                    f"{where}: window_timesteps={config.window_timesteps}: "
                    + ("documents have no timesteps; leave it None" if document else "must be at least 1")
                )
            if config.window_timesteps * widest > length:
                raise MixtureError(
                    f"{where}: window_timesteps={config.window_timesteps} of up to {widest} tokens are longer than "
                    f"a row of {length}: use at most {length // widest}, or None for as many as fit"
                )
        if not 0 <= config.prompt_probability <= 1:
            raise MixtureError(f"{where}: prompt_probability={config.prompt_probability} must be in [0, 1]")
        if config.prompt_timesteps is not None and config.prompt_timesteps < 1:
            raise MixtureError(
                f"{where}: prompt_timesteps={config.prompt_timesteps} must be at least 1; "
                "prompt_probability=0 turns prompts off"
            )
        if config.held_out_episodes < 0:
            raise MixtureError(f"{where}: held_out_episodes={config.held_out_episodes} must be at least 0")


def open_sources(configs: Sequence[SourceConfig], tokenizer: SequenceTokenizer, length: int, seed: int) -> list[Source]:
    """Opens every source of a mixture; weights are normalised to shares.

    Args:
      length: tokens in a row. seed: decides which episodes are held out.

    Raises:
      MixtureError: no source, two of one name, a weight that is not positive and finite, a filter that keeps nothing, a
        window or a timestep longer than a row, an observation longer than the table of local positions.
      StoreError: a store cannot be read.
    """
    if not configs:
        raise MixtureError("a mixture needs at least one source")
    for config in configs:
        if not (config.weight > 0 and math.isfinite(config.weight)):
            raise MixtureError(
                f"{config.path}: weight={config.weight} must be positive and finite; leave the source out"
            )
    total = math.fsum(config.weight for config in configs)
    sources = [Source(config, config.weight / total, tokenizer, length, seed) for config in configs]
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise MixtureError(f"{source.config.path}: two sources are called {source.name!r}; names must differ")
    return sources
