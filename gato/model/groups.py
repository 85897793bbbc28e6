"""Groups of rows: what one device trains on at a time.

A batch of B rows consists of G groups of B / G rows, one or several on each device that splits the batch. Patches and
targets are compact lists, and each group has its own, [G, P, ...] and [G, N]: their indices count inside the group, so
nothing that is read by them lies on another device. With one list for the whole batch, XLA would gather the hidden
states of all devices on each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax


def by_group(function: Callable[[jax.Array, jax.Array], jax.Array], rows: jax.Array, lists: jax.Array) -> jax.Array:
    """``function(rows of the group, list of the group)`` for every group: [B, ...] and [G, ...] -> [G, ...]."""
    return jax.vmap(function)(rows.reshape(len(lists), -1, *rows.shape[1:]), lists)
