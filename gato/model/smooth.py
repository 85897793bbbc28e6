"""Initial rows of the continuous bins: neighbours start similar (the paper is silent on initialisation).

A scalar's 1,024 bins are otherwise 1,024 unrelated symbols, of which a small data set shows most only a few times. With
random Fourier features of the bin's centre, what is learned about one bin carries over to its neighbours from the first
step, and the variance of a row is the one of every other row.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

LOWEST, HIGHEST = (
    1.0,
    256.0,
)  # radians over a unit of the companded value; 256 is half a radian from one bin to the next


def fourier_rows(key: jax.Array, bins: int, width: int, deviation: float) -> jax.Array:
    """float32 [bins, width] with mean 0 and the given standard deviation (over draws of the key).

    Feature d of bin k is sqrt(2) * deviation * cos(w_d c_k + b_d): c_k the bin's centre in [-1, 1], b_d a uniform
    phase, w_d log-uniform, so that coarse and fine scales are equally present.
    """
    key_frequency, key_phase = jax.random.split(key)
    log_frequencies_D = jax.random.uniform(key_frequency, (width,), minval=math.log(LOWEST), maxval=math.log(HIGHEST))
    phases_D = jax.random.uniform(key_phase, (width,), maxval=2 * math.pi)
    centres_K = (2 * jnp.arange(bins, dtype=jnp.float32) + 1) / bins - 1
    return math.sqrt(2) * deviation * jnp.cos(centres_K[:, None] * jnp.exp(log_frequencies_D) + phases_D)
