"""Executed FLOPs against the products that the traced program of attention holds."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gato.model import attention
from gato.model.attention import Backend, tile_size
from gato.model.blockwise import Position
from gato.model.presets import preset
from gato.planning.executed import score_flops


def products(jaxpr: Any, turns_of_loops: float, runs: float = 1) -> float:
    """FLOPs of all products; the body of a loop whose turns the program does not say counts so often."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += runs * 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "while":
            turns = turns_of_loops
        if equation.primitive.name == "pallas_call":
            turns = math.prod(equation.params["grid_mapping"].grid)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):  # of a closed one, too
                total += products(getattr(inner, "jaxpr", inner), turns_of_loops, runs * turns)
    return total


@pytest.mark.parametrize(
    ("position", "backend", "length", "block"),
    [
        *((position, "blocks", length, 256) for position in ("rope", "transformer_xl") for length in (96, 256, 768)),
        *((position, "heads", 256, 64) for position in ("rope", "transformer_xl")),
        *(("transformer_xl", "relative", length, None) for length in (256, 768)),
        *(("transformer_xl", "relative_triton", length, None) for length in (64, 192)),
    ],
)
def test_products_of_queries_and_keys_are_those_of_the_program(
    position: str, backend: Backend, length: int, block: int | None
) -> None:
    """Loops over the tiles on and below the diagonal have (tiles + 1) / 2 turns in the mean, in either direction."""
    model = preset("tiny", position=position, attention_block=block)
    tiles = -(-length // tile_size(backend, length, block))
    x_BHLK = jnp.ones((1, model.heads, length, model.head_dim))
    relative = Position(x_BHLK, x_BHLK[0]) if position == "transformer_xl" else None

    def summed(*arrays: Any) -> jax.Array:
        return attention.run(*arrays[:3], jnp.zeros((1, length), jnp.int32), arrays[3], block, backend, True).sum()

    def both(*arrays: Any) -> Any:
        return jax.value_and_grad(summed, (0, 1, 2, 3) if relative else (0, 1, 2))(*arrays)

    traced = products(jax.make_jaxpr(both)(x_BHLK, x_BHLK, x_BHLK, relative).jaxpr, (tiles + 1) / 2)
    assert traced == pytest.approx(sum(score_flops(model, backend, length)) / model.layers)


def test_tiles_above_the_diagonal_are_left_out() -> None:
    model = preset("gato_79m", position="rope")
    one_tile, eight = (sum(score_flops(model.replace(attention_block=block), "blocks", 1024)) for block in (1024, 128))
    assert eight == one_tile * (8 * 9 / 2) / 8**2
