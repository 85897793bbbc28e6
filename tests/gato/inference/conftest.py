"""A tiny untrained network that knows one embodiment of each kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.inference.agent import Agent
from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.model.transformer import init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.checkpoint_meta import CheckpointMeta, SourceMeta

ARM = EpisodeSpec.of(
    {"hand": LeafSpec("continuous", (3,)), "goal": LeafSpec("continuous", (2,))},
    {"move": LeafSpec("continuous", (2,), low=-2.0, high=2.0), "grip": LeafSpec("discrete", values=3)},
)
READER = EpisodeSpec.of(
    {"grid": LeafSpec("discrete", (4,), values=9), "mission": LeafSpec("text")}, LeafSpec("discrete", values=5)
)
SEER = EpisodeSpec.of({"image": LeafSpec("image", (32, 16, 3))}, LeafSpec("discrete", values=4))
CAPTION = EpisodeSpec.of({"image": LeafSpec("image", (16, 32, 3)), "text": LeafSpec("text")}, {}, "document")
PLAIN = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
MISSIONS = ("go", "pick up the red ball", "open the purple door now")


def observe(spec: EpisodeSpec, rng: np.random.Generator) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    for path, leaf in spec.observations.items():
        if leaf.modality == "continuous":
            observation[path] = rng.normal(size=leaf.shape).astype(np.float32)
        elif leaf.modality == "discrete":
            observation[path] = rng.integers(leaf.values, size=leaf.shape)
        elif leaf.modality == "image":
            observation[path] = rng.integers(256, size=leaf.shape, dtype=np.uint8)
        else:
            observation[path] = MISSIONS[rng.integers(len(MISSIONS))]
    return observation


def demonstrate(spec: EpisodeSpec, steps: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    seen = [observe(spec, rng) for _ in range(steps)]
    observations = {
        path: [o[path] for o in seen] if leaf.modality == "text" else np.stack([o[path] for o in seen])
        for path, leaf in spec.observations.items()
    }
    actions = {
        path: rng.integers(leaf.values, size=(steps, *leaf.shape))
        if leaf.modality == "discrete"
        else rng.uniform(-1, 1, (steps, *leaf.shape))
        for path, leaf in spec.actions.items()
    }
    return Episode(observations, actions, np.ones(steps, np.float32), metadata={"success": True})


@pytest.fixture(scope="session")
def make_agent() -> Callable[..., Agent]:
    text = TextTokenizer.default()
    vocabulary = Vocabulary(text.size)

    def make(recipe: str = "gato", length: int = 256, window: int | None = 1, **model: Any) -> Agent:
        config = preset("tiny", vocabulary, **model)
        statistics = {"target_return": 10.0} if recipe == "return_conditioned" else {}
        specs = {
            "arm/reach": ARM,
            "grid/reader": READER,
            "game/seer": SEER,
            "captions/rooms": CAPTION,
            "text/plain": PLAIN,
        }
        meta = CheckpointMeta(
            model=config,
            vocabulary=vocabulary,
            text_model=text.model_bytes,
            recipe=recipe,
            layout=get_recipe(recipe).layout,
            sources={name: SourceMeta(spec, name, window, 2, statistics) for name, spec in specs.items()},
            length=length,
        )
        return Agent(parameters(config), meta)

    return make


@functools.cache
def parameters(config: ModelConfig) -> Any:
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


@pytest.fixture(scope="session")
def kinds() -> dict[str, EpisodeSpec]:
    return {"arm/reach": ARM, "grid/reader": READER, "game/seer": SEER}


@pytest.fixture(scope="session")
def observe_spec() -> Callable[..., dict[str, Any]]:
    return observe


@pytest.fixture(scope="session")
def demonstration() -> Callable[..., Episode]:
    return demonstrate
