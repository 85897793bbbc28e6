"""Builds what a run consists of from its configuration: data, model, mesh, and the compiled steps."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gato import sharding
from gato.data_pipelines.loader import Loader
from gato.data_pipelines.mixture import Source
from gato.recipes.recipe import Recipe, get_recipe
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta
from gato.training.config import TrainConfig
from gato.training.loss import LossSums
from gato.training.step import StepMetrics, TrainState
from gato.training.steps import make_steps

CACHE_VARIABLE = "GATO_COMPILATION_CACHE"


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, in ``$XDG_CACHE_HOME/gato/xla`` (``~/.cache/gato/xla``).

    ``GATO_COMPILATION_CACHE`` names another directory; set to the empty string, it turns the cache off. A directory
    that JAX was already told (``JAX_COMPILATION_CACHE_DIR``) stays.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gato" / "xla"
    directory = os.environ.get(CACHE_VARIABLE, str(default))
    if directory:
        jax.config.update("jax_compilation_cache_dir", directory)


def make_tokenizer(config: TrainConfig, recipe: Recipe) -> SequenceTokenizer:
    """The tokenizer of a run; raises `ConfigError` if the model was built for another vocabulary."""
    text = TextTokenizer.load(config.text_model)
    vocabulary = Vocabulary(text.size, config.extra_tokens)
    config.check_vocabulary(vocabulary)
    return SequenceTokenizer(vocabulary, text, recipe.layout, config.model.local_positions)


@dataclasses.dataclass
class Setup:
    """What a run consists of.

    Attributes:
      loader: batches of this process.
      hosted: the groups of a batch that this process loads.
      groups: of the global batch: `accumulate` for each part that the mesh splits a batch into.
      batch_size: rows of the global batch.
      validation_batches: over the held-out episodes, the same at every validation.
      meta: what the checkpoints say about the run.
      source_names: in the order of the loss sums.
      train_step: (state, batch) -> (state, metrics), compiled; the state's buffers are donated.
      validation_step: (params, batch) -> loss sums, compiled.
      class_losses: the same for batches whose ``target_source`` counts other classes than the sources; so many.
      create_state: the state of step 0, traceable.
    """

    loader: Loader
    hosted: list[int]
    groups: int
    batch_size: int
    validation_batches: list[dict[str, np.ndarray]]
    meta: CheckpointMeta
    source_names: list[str]
    mesh: Mesh
    state_shardings: Any
    train_step: Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, StepMetrics]]
    validation_step: Callable[[Any, Mapping[str, jax.Array]], LossSums]
    class_losses: Callable[[int], Callable[[Any, Mapping[str, jax.Array]], LossSums]]
    create_state: Callable[[], TrainState]

    def initial_state(self) -> TrainState:
        """Parameters drawn from the seed, on the devices where they belong."""
        return jax.jit(self.create_state, out_shardings=self.state_shardings)()

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of that state; takes no memory."""
        return sharding.abstract(jax.eval_shape(self.create_state), self.state_shardings)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch on the devices. Every process holds the rows of its groups; the global batch is all of them."""
        place = sharding.batch_sharding(self.mesh)
        if jax.process_count() == 1:
            return jax.device_put(dict(batch), place)

        def spread(array: np.ndarray) -> jax.Array:
            size = len(array) // len(self.hosted)  # of a group

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(self.groups * size)
                first = self.hosted.index(start // size) * size
                return array[first : first + stop - start]

            return jax.make_array_from_callback((self.groups * size, *array.shape[1:]), place, part)

        return {name: spread(array) for name, array in batch.items()}


def build(config: TrainConfig) -> Setup:
    """Opens the data, builds the model and compiles nothing yet (`jax.jit` compiles at the first call).

    Raises:
      GatoError: a source, the recipe, the vocabulary or the mesh does not fit.
    """
    enable_compilation_cache()
    recipe = get_recipe(config.recipe)
    tokenizer = make_tokenizer(config, recipe)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    steps = make_steps(config, mesh, vocabulary_size=tokenizer.vocabulary.size, sources=len(config.sources))
    groups = steps.groups
    hosted = sharding.hosted_groups(mesh, groups)
    loader = Loader(
        config.sources,
        tokenizer,
        batch_size=config.batch_size,
        length=config.length,
        seed=config.seed,
        groups=groups,
        hosted=hosted,
        threads=config.loader_threads,
        workers=config.loader_workers,
        derive=recipe.derive,
        episode_weight=recipe.episode_weight,
        recipe=recipe.name,
    )
    validation_batches = list(loader.validation_batches(config.validation_batches)) if config.validation_every else []
    names = [source.name for source in loader.sources]
    return Setup(
        loader=loader,
        hosted=hosted,
        groups=groups,
        batch_size=config.batch_size,
        validation_batches=validation_batches,
        meta=_meta(config, recipe, tokenizer, loader.sources),
        source_names=names,
        mesh=mesh,
        state_shardings=steps.state_shardings,
        train_step=steps.train_step,
        validation_step=steps.class_losses(len(names)),
        class_losses=steps.class_losses,
        create_state=steps.create_state,
    )


def _meta(
    config: TrainConfig, recipe: Recipe, tokenizer: SequenceTokenizer, sources: Sequence[Source]
) -> CheckpointMeta:
    assert tokenizer.text is not None
    described = {}
    for source in sources:
        metadata = source.store.metadata
        described[source.name] = SourceMeta(
            spec=source.store.spec,
            task=str(metadata.get("task", "")),
            window_timesteps=source.config.window_timesteps,
            prompt_timesteps=source.config.prompt_timesteps,
            statistics=recipe.statistics(source.store.returns[source.episodes["train"]]),
        )
    return CheckpointMeta(
        model=config.model,
        vocabulary=tokenizer.vocabulary,
        text_model=tokenizer.text.model_bytes,
        recipe=recipe.name,
        layout=tokenizer.layout,
        sources=described,
        length=config.length,
    )
