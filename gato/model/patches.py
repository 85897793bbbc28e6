"""One ResNet block per image patch (Gato section 2.2): 16 x 16 x 3 pixels -> a vector of the model's width."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gato.model.config import ModelConfig

_he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PatchEncoder(nn.Module):
    """Stem convolution, one pre-activation (v2) block of two 3 x 3 convolutions, norm, GELU, mean pooling, linear.

    GroupNorm with 32 groups and GELU are the paper's; the widths, the stem and what follows the block are ours (it
    names none). Pre-activation networks end with a norm and an activation (He et al. 2016, "Identity Mappings"):
    without them a small bright thing, the ball of a game, hardly changes a patch's vector.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, pixels_PHWC: jax.Array) -> jax.Array:
        """uint8 [P, 16, 16, 3] -> [P, D]. Pixels become [-1, 1] / sqrt(16) here, on the device."""
        patch, dtype = self.config.patch, jnp.dtype(self.config.dtype)
        x = ((pixels_PHWC.astype(jnp.float32) / 255 * 2 - 1) / 4).astype(dtype)
        # The stem's gain undoes the small scale of the pixels, so that the block starts on inputs of order one.
        x = self._conv("stem", patch.kernel, patch.stride, nn.initializers.variance_scaling(16.0, "fan_in", "normal"))(
            x
        )
        y = self._conv("conv_0", 3, 1, _he)(nn.gelu(self._norm("norm_0")(x)))
        y = self._conv("conv_1", 3, 1, _he)(nn.gelu(self._norm("norm_1")(y)))
        x = nn.gelu(self._norm("norm_2")(x + y))
        pool, side = patch.pool, x.shape[1] // patch.pool
        x = x.reshape(-1, pool, side, pool, side, patch.width).mean(axis=(2, 4)).reshape(-1, pool**2 * patch.width)
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("channels", "embed"))
        return nn.Dense(self.config.width, use_bias=False, dtype=dtype, kernel_init=kernel, name="project")(x)

    def _conv(self, name: str, kernel: int, stride: int, init: nn.initializers.Initializer) -> nn.Conv:
        init = nn.with_logical_partitioning(init, ("kernel", "kernel", "channels", "channels"))
        padding = "VALID" if kernel == stride else "SAME"
        return nn.Conv(
            self.config.patch.width,
            (kernel, kernel),
            stride,
            padding,
            dtype=self.config.dtype,
            kernel_init=init,
            name=name,
        )

    def _norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(self.config.patch.groups, dtype=self.config.dtype, name=name)
