"""Specialists: one small network a task, cloned from the same demonstrations; what one network for all must approach.

An MLP over the encoded leaves (`features`): numbers as they are, an embedding for each discrete value (and its product
with that of the instruction), a linear map of the bag of words, and for pixels two convolutions whose strides equal
their kernels (4, then 4), i.e. one vector for each 16 x 16 patch. Continuous actions are regressed, discrete ones
classified; trained with AdamW for a fixed number of updates.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gato.data_pipelines.environments.base import Action, Observation
from gato.data_pipelines.store import Store
from gato.evaluation.features import TILES, Features, PatchTable
from gato.inference.observations import split_actions, stack_observations
from gato.tokenizers.spec import EpisodeSpec, LeafSpec

Encoded = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SpecialistConfig:
    """Size and training of a specialist.

    Attributes:
      width: of the two hidden layers. embedding: of a discrete value; half that of a tile of 4 x 4 pixels, a
        quarter that of a patch.
      batch, updates, learning_rate: of AdamW with a cosine to 0.
      most_steps: timesteps of the demonstrations that are read at most (they are enough, and memory is not endless).
    """

    width: int = 256
    embedding: int = 8
    batch: int = 128
    updates: int = 3000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    most_steps: int = 60_000


class _Network(nn.Module):
    """Encoded observation -> action leaf -> [B, *shape] in [-1, 1] (continuous), or logits [B, *shape, values].

    A picture is encoded as distinct patches [P, 768] and the number of each of its own, [B, n].
    """

    spec: EpisodeSpec
    config: SpecialistConfig

    @nn.compact
    def __call__(self, encoded: Encoded) -> dict[str, jax.Array]:
        leaves = self.spec.observations
        bags = [encoded[path] for path, leaf in leaves.items() if leaf.modality == "text"]
        words = nn.Dense(self.config.embedding, name="words")(jnp.concatenate(bags, axis=-1)) if bags else None
        parts = [self._embed(path, leaf, encoded[path], words) for path, leaf in leaves.items()]
        x = jnp.concatenate(parts, axis=-1)
        for _ in range(2):
            x = nn.gelu(nn.LayerNorm()(nn.Dense(self.config.width)(x)))
        outputs = {}
        for path, leaf in self.spec.actions.items():
            shape = leaf.shape if leaf.modality == "continuous" else (*leaf.shape, leaf.values or 0)
            flat = nn.Dense(int(np.prod(shape)))(x)
            outputs[path] = flat.reshape(-1, *shape)
        return outputs

    def _embed(self, path: str, leaf: LeafSpec, value: Any, words: jax.Array | None) -> jax.Array:
        size = self.config.embedding
        name = path.replace(".", "_")
        if leaf.modality == "continuous":
            return value
        if leaf.modality == "text":
            return nn.Dense(4 * size, name=f"words_{name}")(value)
        if leaf.modality == "discrete":
            x = nn.Embed(leaf.values or 0, size, name=f"values_{name}")(value)
            if words is not None:  # each value beside its product with the instruction: "is this what I was told of?"
                x = jnp.concatenate([x, x * words[:, None]], axis=-1)
            return x.reshape(len(value), -1)
        pixels, index = value
        x = (pixels.astype(jnp.float32) / 127.5 - 1.0).reshape(len(pixels), TILES, -1)
        x = nn.relu(nn.Dense(2 * size, name=f"tiles_{name}")(x)).reshape(len(pixels), -1)
        x = nn.relu(nn.Dense(4 * size, name=f"patches_{name}")(x))
        return x[index].reshape(len(index), -1)


def _numbered(patches_BNK: Any) -> tuple[Any, np.ndarray]:
    """Patches [B, n, 768] as a list [B * n, 768] and the number of each, int32 [B, n]."""
    batch, count, size = patches_BNK.shape
    return patches_BNK.reshape(-1, size), np.arange(batch * count, dtype=np.int32).reshape(batch, count)


class Specialist:
    """A trained specialist; acts in a batch of environments (`rollouts.BatchPolicy`)."""

    entropies = None

    def __init__(self, features: Features, network: _Network, params: Any) -> None:
        self._features, self._params = features, params
        self._apply = jax.jit(lambda params, encoded: network.apply(params, encoded))
        self._draws: list[np.random.Generator] = []  # of each row

    def act(self, observations: Sequence[Observation], rewards: np.ndarray | None = None) -> list[Action]:
        """Continuous actions as regressed, discrete ones drawn from the network's distribution."""
        spec = self._features.spec
        encoded: dict[str, Any] = self._features.encode(stack_observations(observations, spec))
        for path, leaf in spec.observations.items():
            if leaf.modality == "image":
                encoded[path] = _numbered(encoded[path])
        outputs = jax.device_get(self._apply(self._params, encoded))
        actions: dict[str, np.ndarray] = {}
        for path, leaf in spec.actions.items():
            if leaf.modality == "continuous":
                low, high = leaf.bounds(path)
                actions[path] = np.clip((outputs[path] + 1) / 2 * (high - low) + low, low, high)
            else:
                noise = np.stack([rng.gumbel(size=outputs[path].shape[1:]) for rng in self._draws])
                actions[path] = np.argmax(outputs[path] + noise, axis=-1).astype(np.int32)
        return split_actions(actions, len(observations))

    def restart(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Nothing to forget, a specialist sees one timestep; the draws begin anew."""
        self._draws += [np.random.default_rng(0)] * (max(rows, default=-1) + 1 - len(self._draws))
        for row, seed in zip(rows, seeds, strict=True):
            self._draws[row] = np.random.default_rng(seed)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops the draws of the others."""
        self._draws = [self._draws[row] for row in rows]


def train_specialist(
    store: Store, episodes: Sequence[int] | np.ndarray, seed: int = 0, config: SpecialistConfig | None = None
) -> Specialist:
    """Clones the demonstrations ``episodes`` (indices into the store) of one task."""
    config = config or SpecialistConfig()
    spec = store.spec
    order = np.random.default_rng(seed).permutation(episodes)
    observations, actions, tables = _read(store, order, config.most_steps)
    features = Features.fit(observations, spec)
    inputs = {**features.encode(observations, except_for=tables), **{path: observations[path] for path in tables}}
    targets = {path: _target(path, leaf, actions[path]) for path, leaf in spec.actions.items()}
    network = _Network(spec, config)
    key = jax.random.key(seed)
    data = {"inputs": inputs, "targets": targets, "tables": {path: table.pixels() for path, table in tables.items()}}
    fit = jax.jit(lambda data, key: _fit(network, config, data, key))
    return Specialist(features, network, jax.block_until_ready(fit(data, key)))


def _fit(network: _Network, config: SpecialistConfig, data: dict[str, Encoded], key: jax.Array) -> Any:
    """Parameters after all updates, in one compiled loop."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.updates)
    optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    count = next(iter(data["targets"].values())).shape[0]

    def observed(index: jax.Array) -> Encoded:
        rows: dict[str, Any] = {path: values[index] for path, values in data["inputs"].items()}
        for path, table in data["tables"].items():
            # The whole table where it is small, as the tiles of a grid world are; else the patches of this batch.
            small = len(table) <= rows[path].size
            rows[path] = (table, rows[path]) if small else _numbered(table[rows[path]])
        return rows

    def loss(params: Any, index: jax.Array) -> jax.Array:
        outputs = network.apply(params, observed(index))
        total = jnp.zeros(())
        for path, leaf in network.spec.actions.items():
            target = data["targets"][path][index]
            if leaf.modality == "continuous":
                total += jnp.mean((outputs[path] - target) ** 2)
            else:
                total += jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs[path], target))
        return total

    def update(state: tuple[Any, Any], step: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        index = jax.random.randint(jax.random.fold_in(key, step), (config.batch,), 0, count)
        gradient = jax.grad(loss)(params, index)
        changes, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, changes), moments), None

    params = network.init(key, observed(jnp.zeros(1, jnp.int32)))
    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(config.updates))
    return params


def _read(
    store: Store, episodes: np.ndarray, most_steps: int
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, PatchTable]]:
    """Observations and actions of the episodes, one after the other; pictures as numbers into a table of patches."""
    leaves = store.spec.observations
    tables = {path: PatchTable() for path, leaf in leaves.items() if leaf.modality == "image"}
    observations: dict[str, list[Any]] = {path: [] for path in leaves}
    actions: dict[str, list[np.ndarray]] = {path: [] for path in store.spec.actions}
    steps = 0
    for index in episodes:
        if steps >= most_steps:
            break
        episode = store.episode(int(index))
        steps += len(episode)
        for path, values in episode.observations.items():
            observations[path].append(tables[path].add(values) if path in tables else values)
        for path, values in episode.actions.items():
            actions[path].append(np.asarray(values))
    joined = {
        path: list(itertools.chain(*parts)) if leaves[path].modality == "text" else np.concatenate(parts)
        for path, parts in observations.items()
    }
    return joined, {path: np.concatenate(parts) for path, parts in actions.items()}, tables


def _target(path: str, leaf: LeafSpec, values: np.ndarray) -> np.ndarray:
    if leaf.modality == "discrete":
        return values.astype(np.int32)
    low, high = leaf.bounds(path)
    return np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32)
