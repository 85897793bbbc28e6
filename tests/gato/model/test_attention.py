"""Blocked attention, Transformer-XL's position term and rope against plain references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model import attention, relative, rope

B, H, L, K, D = 2, 3, 13, 8, 12


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@pytest.mark.parametrize("block", [1, 5, 128])
@pytest.mark.parametrize("with_position", [False, True])
def test_attention_against_a_loop(block, with_position):
    """Dai et al. 2019, section 3.3, written token by token: (q+u) . k_j + (q+v) . W_r R_{i-j}."""
    q, k, values, u, v = (
        normal(0, B, H, L, K),
        normal(1, B, H, L, K),
        normal(2, B, H, L, K),
        normal(3, H, K),
        normal(4, H, K),
    )
    kernel = normal(5, D, H, K)
    segments = np.asarray([[1] * 4 + [2] * 9, [1] * 10 + [0] * 3])
    want = np.zeros_like(q)
    for b in range(B):
        for h in range(H):
            for i in range(L):
                seen = [j for j in range(i + 1) if segments[b, j] == segments[b, i]]
                scores = []
                for j in seen:
                    if not with_position:
                        scores.append(q[b, h, i] @ k[b, h, j])
                        continue
                    angles = (i - j) / 10_000 ** (np.arange(0, D, 2) / D)
                    r = np.concatenate([np.sin(angles), np.cos(angles)])
                    scores.append((q[b, h, i] + u[h]) @ k[b, h, j] + (q[b, h, i] + v[h]) @ (r @ kernel[:, h]))
                want[b, h, i] = softmax(np.asarray(scores) / np.sqrt(K)) @ values[b, h, seen]
    position = None
    if with_position:
        keys_HMK = jnp.einsum("md,dhk->hmk", relative.sinusoids(L, D), kernel)
        position = attention.Position(q + v[:, None], keys_HMK)
        q = q + u[:, None]
    got = jax.jit(attention.attention, static_argnums=5)(q, k, values, segments, position, block)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_gradient_of_masked_attention_is_finite_and_blocks_agree():
    q, k, v = normal(0, B, H, L, K) * 30, normal(1, B, H, L, K), normal(2, B, H, L, K)
    segments = jnp.asarray([[1] * 4 + [2] * 9, [1] * 10 + [0] * 3])

    def loss(q, k, v, block):
        return jnp.sin(attention.attention(q, k, v, segments, None, block)).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    one, many = (gradient(q, k, v, block) for block in (13, 4))
    for a, b in zip(one, many, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_shift_ragged_reads_the_distance():
    scores_BHQM = jnp.asarray(normal(0, 2, 1, 3, 10))
    positions_BQ = jnp.asarray([[2, 3, 4], [7, 8, 9]])
    got = relative.shift_ragged(scores_BHQM, positions_BQ)
    for b, first in enumerate((2, 7)):
        for t in range(3):
            for j in range(first + t + 1):
                assert got[b, 0, t, j] == scores_BHQM[b, 0, t, first + t - j]


def test_rope_against_complex_rotation():
    x, positions = normal(0, B, H, L, K), np.random.default_rng(1).integers(0, 900, (B, L))
    got = np.asarray(rope.rotate(jnp.asarray(x), rope.rotation(jnp.asarray(positions), K)))
    angles = positions[:, None, :, None] / 10_000 ** (np.arange(0, K, 2) / K)
    want = (x[..., : K // 2] + 1j * x[..., K // 2 :]) * np.exp(1j * angles)
    np.testing.assert_allclose(got, np.concatenate([want.real, want.imag], -1), atol=1e-3)


def test_rope_scores_depend_on_the_distance_only():
    q, k = jnp.asarray(normal(0, 1, 1, 1, K)), jnp.asarray(normal(1, 1, 1, 1, K))

    def score(i, j):
        return float(
            (
                rope.rotate(q, rope.rotation(jnp.asarray([[i]]), K))
                * rope.rotate(k, rope.rotation(jnp.asarray([[j]]), K))
            ).sum()
        )

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
