"""What holds for all tests, and checkpoints of networks that have learned nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gato.data_pipelines.mixture import SourceConfig
from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint import Checkpoints
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta
from gato.training.config import TrainConfig
from gato.training.run_directory import prepare
from gato.training.step import TrainState

with contextlib.suppress(ImportError):  # environments of Beam, Ray and the compilers have no hypothesis
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is; what hangs is ended by pytest-timeout.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.fixture(scope="session")
def save_untrained() -> Callable[..., Path]:
    """`write_untrained`, for tests in any folder."""
    return write_untrained


def write_untrained(
    run: Path, sources: Mapping[str, SourceMeta], data: Sequence[SourceConfig] = (), step: int = 1, scale: float = 1.0
) -> Path:
    """A run directory with a checkpoint of a tiny network and Gato's recipe; its config.json only where there is data.

    Args:
      run: the directory.
      sources: what the checkpoint says that it was trained on.
      data: the stores that config.json names.
      step: of the checkpoint.
      scale: of the network's matrices, against those that training begins with.

    Returns:
      ``run``.
    """
    text = TextTokenizer.default()
    vocabulary = Vocabulary(text.size)
    model = preset("tiny", vocabulary)
    if data:
        prepare(run, TrainConfig(model=model, sources=tuple(data), length=128, batch_size=2, steps=1))
    recipe = get_recipe("gato")
    meta = CheckpointMeta(
        model=model,
        vocabulary=vocabulary,
        text_model=text.model_bytes,
        recipe=recipe.name,
        layout=recipe.layout,
        sources=dict(sources),
        length=128,
    )
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    params = jax.tree.map(lambda values: scale * values if values.ndim > 1 else values, params)
    checkpoints = Checkpoints(run, keep=1)
    checkpoints.save(step, TrainState(jnp.int32(step), params, {"moment": jnp.zeros(1)}), {}, meta)
    checkpoints.close()
    return run
