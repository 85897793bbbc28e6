"""`jnp.take_along_axis` for the columns of a tile, inside a Pallas kernel for GPUs.

Triton has the operation, through a GPU's shared memory, but JAX's translation of kernels to Triton does not know it; it
is taught here, for which JAX has no public interface (tests compile it, so that a new JAX that changes this is seen).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax._src.lib.triton import dialect
from jax._src.pallas.triton import lowering
from jax.extend.core import Primitive
from jax.interpreters import mlir

_take_columns = Primitive("take_columns")


def take_columns(x_NM: jax.Array, columns_NM: jax.Array) -> jax.Array:
    """[N, M]: entry (a, b) is ``x[a, columns[a, b]]``. All columns must exist."""
    return _take_columns.bind(x_NM, columns_NM)


def _plain(x_NM: jax.Array, columns_NM: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_NM, columns_NM, axis=1)


_take_columns.def_abstract_eval(lambda x, columns: jax.core.ShapedArray(columns.shape, x.dtype))
mlir.register_lowering(_take_columns, mlir.lower_fun(_plain, multiple_results=False))  # where a kernel is interpreted


@lowering.register_lowering(_take_columns)
def _(context: lowering.LoweringRuleContext, x: Any, columns: Any) -> Any:
    return dialect.gather(x, columns, 1)
