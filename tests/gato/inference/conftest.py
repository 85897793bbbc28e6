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
from gato.inference.history import History
from gato.model.config import ModelConfig
from gato.model.presets import preset
from gato.model.transformer import GatoModel, init_params
from gato.recipes.recipe import get_recipe
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.token_sequence import TokenSequence, concatenate
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

    def make(recipe: str = "gato", length: int = 256, window: int | None = 1, seed: int = 0, **model: Any) -> Agent:
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
        return Agent(parameters(config), meta, seed)

    return make


@functools.cache
def parameters(config: ModelConfig) -> Any:
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


PADDED = 128


@pytest.fixture(scope="session")
def full_logits() -> Callable[..., list[jax.Array]]:
    return full_logits_of


@pytest.fixture(scope="session")
def tokens_of() -> Callable[..., TokenSequence]:
    return tokens_of_timesteps


def full_logits_of(agent, spec, prompt, remembered, observation, actions, derived=None):
    """Logits of every action token from one plain forward pass over prompt + remembered timesteps + this one."""
    sequence = tokens_of_timesteps(agent, spec, [*remembered, (observation, actions)], derived)
    if prompt is not None:
        prompt_derived = {name: values[-2:] for name, values in agent.recipe.derived(prompt).items()}
        tail = agent.tokenizer.tokenize(
            {path: values[-2:] for path, values in prompt.observations.items()},
            {path: values[-2:] for path, values in prompt.actions.items()},
            spec,
            prompt_derived,
        )
        sequence = concatenate([tail, sequence])
    length = len(sequence)
    history = History(1, agent.meta.vocabulary.padding)
    history.append(np.zeros(length, np.int32), sequence)
    batch, _ = history.chunk(np.zeros(1, np.int32), np.zeros(1, np.int32), PADDED)
    batch["segment_ids"] = (np.arange(PADDED) < length).astype(np.int32)[None]
    batch["positions"] = np.arange(PADDED, dtype=np.int32)[None]
    ranges = tuple((int(lo), int(hi)) for lo, hi in agent.tokenizer.action_ranges(spec))
    return forward(agent.meta.model, ranges, agent.params, batch, length - len(ranges) - 1)


def tokens_of_timesteps(agent, spec, timesteps, derived=None):
    """Tokens of (observation, action) pairs."""
    stacked = {
        path: [o[path] for o, _ in timesteps] if leaf.modality == "text" else np.stack([o[path] for o, _ in timesteps])
        for path, leaf in spec.observations.items()
    }
    acted = {path: np.stack([a[path] for _, a in timesteps]) for path in spec.actions}
    return agent.tokenizer.tokenize(stacked, acted, spec, derived)


@functools.partial(jax.jit, static_argnames=("config", "ranges"))
def forward(config, ranges, params, batch, before):
    model = GatoModel(config)
    hidden = model.apply(params, batch)[0]
    return [model.apply(params, hidden[before + i], lo, hi, method="logits") for i, (lo, hi) in enumerate(ranges)]


@pytest.fixture(scope="session")
def kinds() -> dict[str, EpisodeSpec]:
    return {"arm/reach": ARM, "grid/reader": READER, "game/seer": SEER}


@pytest.fixture(scope="session")
def observe_spec() -> Callable[..., dict[str, Any]]:
    return observe


@pytest.fixture(scope="session")
def demonstration() -> Callable[..., Episode]:
    return demonstrate
