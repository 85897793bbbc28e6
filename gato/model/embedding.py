"""Tokens -> vectors: one table for all ids (tied with the head), patches, and learned positions (Gato section 2.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gato.model.config import ModelConfig
from gato.model.groups import by_group
from gato.model.patches import PatchEncoder
from gato.model.smooth import fourier_rows
from gato.sharding import constrain
from gato.tokenizers.image import POSITIONS, evaluation_table
from gato.tokenizers.token_sequence import ACTION_POSITION


class Embedding(nn.Module):
    """The sum of what a token is and where it stands inside its timestep.

    All tables are drawn with deviation 1 / sqrt(D) and read times sqrt(D): vectors of order one enter the network, and
    the tied head starts with logits of order one.
    """

    config: ModelConfig
    mesh: Mesh | None = None

    def setup(self) -> None:
        config = self.config
        self.table = self.param(
            "table",
            nn.with_logical_partitioning(functools.partial(_initial_table, config=config), ("vocabulary", "embed")),
            (config.vocabulary_size, config.width),
        )
        self.local_positions = self._positions("local_positions", config.local_positions)
        self.action_position = self._positions("action_position", 1)
        self.patch_rows = self._positions("patch_rows", POSITIONS)
        self.patch_columns = self._positions("patch_columns", POSITIONS)
        self.patches = PatchEncoder(config)

    def _positions(self, name: str, size: int) -> jax.Array:
        init = nn.initializers.normal(self.config.width**-0.5)
        return self.param(name, nn.with_logical_partitioning(init, ("positions", "embed")), (size, self.config.width))

    def __call__(self, tokens: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """ids, local_position [B, L] and, where there are patches, patch_index [B, L] (-1: no patch), patch_intervals
        [B, L, 4], patches uint8 [G, P, 16, 16, 3] (or [P, 16, 16, 3], those of the only group of rows) -> [B, L, D] of
        the model's dtype.
        """
        dtype = jnp.dtype(self.config.dtype)
        local_BL = tokens["local_position"].astype(jnp.int32)
        # One gather for the local positions and the action's: row `local_positions` is the action's, the next is zero.
        places = jnp.concatenate([self.local_positions, self.action_position, jnp.zeros_like(self.action_position)])
        action = self.config.local_positions
        place_BL = jnp.where(local_BL >= 0, local_BL, jnp.where(local_BL == ACTION_POSITION, action, action + 1))
        x_BLD = self._read(self.table, tokens["ids"])
        if "patches" in tokens and tokens["patches"].shape[-4] > 0:
            index_BL = tokens["patch_index"]
            row_BL, column_BL = self._patch_position(tokens["patch_intervals"], train)
            pixels = tokens["patches"]
            vectors = self.patches(pixels.reshape(-1, *pixels.shape[-3:]))
            vectors_GPD = vectors.reshape(-1, pixels.shape[-4], x_BLD.shape[-1])
            patch_BLD = by_group(_take_vectors, jnp.maximum(index_BL, 0), vectors_GPD)
            patch_BLD = patch_BLD.reshape(x_BLD.shape)  # also of groups
            patch_BLD += self._read(self.patch_rows, row_BL) + self._read(self.patch_columns, column_BL)
            x_BLD = jnp.where((index_BL >= 0)[..., None], patch_BLD, x_BLD)
        return (x_BLD + self._read(places, place_BL)).astype(dtype)

    def logits(self, hidden: jax.Array, lo: int = 0, hi: int | None = None) -> jax.Array:
        """[..., D] -> float32 logits [..., hi - lo] of the ids lo .. hi-1 (static)."""
        dtype = jnp.dtype(self.config.dtype)
        rows_VD = self._whole(self.table)[lo:hi].astype(dtype)
        return jnp.einsum("...d,vd->...v", hidden.astype(dtype), rows_VD, preferred_element_type=jnp.float32)

    def _read(self, table: jax.Array, index: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.config.dtype)
        return jnp.take(self._whole(table), index, axis=0, mode="clip").astype(dtype) * jnp.asarray(
            self.config.width**0.5, dtype
        )

    def _whole(self, table: jax.Array) -> jax.Array:
        """Gathers the width of a table that fsdp has split: its axis also splits the tokens that read the table."""
        return constrain(table, self.mesh, "vocabulary" if table is self.table else "positions", "features")

    def _patch_position(self, intervals_BL4: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Row and column in 0 .. 127: a uniform integer of the interval in training, its rounded mean in evaluation."""
        starts_BL2 = intervals_BL4[..., 0::2].astype(jnp.int32)
        stops_BL2 = intervals_BL4[..., 1::2].astype(jnp.int32)
        if train:
            uniform_BL2 = jax.random.uniform(self.make_rng("position"), starts_BL2.shape)
            positions_BL2 = starts_BL2 + jnp.floor(uniform_BL2 * (stops_BL2 - starts_BL2)).astype(jnp.int32)
        else:
            positions_BL2 = jnp.asarray(evaluation_table(), jnp.int32)[starts_BL2, stops_BL2]
        return positions_BL2[..., 0], positions_BL2[..., 1]


def _take_vectors(index_bL: jax.Array, vectors_PD: jax.Array) -> jax.Array:
    return jnp.take(vectors_PD, index_bL, axis=0, mode="clip")


def _initial_table(key: jax.Array, shape: tuple[int, int], config: ModelConfig) -> jax.Array:
    key_rows, key_bins = jax.random.split(key)
    deviation = config.width**-0.5
    table = jax.random.normal(key_rows, shape) * deviation
    bins = fourier_rows(key_bins, config.continuous_bins, config.width, deviation)
    return jax.lax.dynamic_update_slice(table, bins, (config.continuous_start, 0))
