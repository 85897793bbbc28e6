"""Samples of what a run's network reads, for the report: the beginning of one sequence of every suite."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from gato.data_pipelines.store import Store
from gato.evaluation.report_pictures import describe_tokens
from gato.recipes.recipe import get_recipe
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.training.checkpoint import load_meta
from gato.training.run_directory import read_config

TIMESTEPS = 2


def write_token_samples(run: Path) -> Path:
    """Writes ``<run>/evaluation/tokens.json`` from the run's configuration, checkpoint and stores; returns its path.

    Raises:
      CheckpointError: the run has no checkpoint yet. StoreError: a store of the run is not there any more.
    """
    config = read_config(run)
    meta, recipe = load_meta(run), get_recipe(config.recipe)
    text = TextTokenizer(meta.text_model)
    tokenizer = SequenceTokenizer(meta.vocabulary, text, meta.layout, meta.model.local_positions)
    described, suites = [], set()
    for source in config.sources:
        store = Store(source.path)
        suite = store.name.partition("/")[0]
        if suite in suites:
            continue
        suites.add(suite)
        episode = store.episode(0)
        steps = min(TIMESTEPS, len(episode))
        # Whole first: a recipe may derive the first timesteps from what comes after them.
        sequence = tokenizer.tokenize(
            episode.observations,
            episode.actions,
            store.spec,
            recipe.derived(episode),
        )
        # As the training weighs them, see `token_cache.TokenCache`.
        weight = source.loss_weight * (recipe.episode_weight(episode) if recipe.episode_weight else 1.0)
        factors = np.where(source.learned(), weight, 0.0)[sequence.kinds]
        sequence = dataclasses.replace(sequence, loss_weight=sequence.loss_weight * factors.astype(np.float32))
        described.append(describe_tokens(store.name, sequence.slice(0, steps), meta.vocabulary, text))
    path = run / "evaluation" / "tokens.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(described))
    return path
