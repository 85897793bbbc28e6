"""Parameters as a network that only acts reads them: in the dtype in which they are multiplied.

Training keeps them in float32 and casts them at every step. Where they do not change, a cast at every token would read
four bytes a parameter for two that are used.
"""

from __future__ import annotations

from typing import Any

import jax

from gato.model.config import ModelConfig


def cast_params(config: ModelConfig, variables: Any) -> Any:
    """The variables, in ``config.dtype`` what the network casts to it before all else; its outputs stay the same.

    Scales and biases of norms are float32: they are multiplied with float32. Nothing is copied that is cast already.
    """

    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        of_norm = any("norm" in str(part.key) for part in path)
        return leaf if of_norm or leaf.dtype == config.dtype else leaf.astype(config.dtype)

    return jax.tree_util.tree_map_with_path(cast, variables)
