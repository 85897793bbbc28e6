"""Every backend of attention, forward and backward, against plain references; which one is chosen; rope."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.model import attention, relative, rope
from gato.model.config import ModelError
from gato.model.presets import preset

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
    got = jax.jit(attention.attention, static_argnums=(5, 6))(q, k, values, segments, position, block, "heads")
    np.testing.assert_allclose(got, want, atol=1e-5)


def square(q, k, v, segments, position):
    """The definition, on the whole square of scores, in float32."""
    q, k, v, position = jax.tree.map(lambda x: x.astype(jnp.float32), (q, k, v, position))
    index = jnp.arange(q.shape[2])
    distance = index[:, None] - index
    scores = jnp.einsum("bhik,bhjk->bhij", q, k)
    if position is not None:
        by_distance = jnp.einsum("bhik,hmk->bhim", position.queries_BHLK, position.keys_HMK)
        scores += jnp.take_along_axis(by_distance, jnp.maximum(distance, 0)[None, None], axis=-1)
    allowed = (segments[:, :, None] == segments[:, None, :]) & (distance >= 0)
    weights = jax.nn.softmax(jnp.where(allowed[:, None], scores * q.shape[-1] ** -0.5, -jnp.inf), axis=-1)
    return jnp.einsum("bhij,bhjk->bhik", weights, v)


def case(length, head_dim, with_position, dtype):
    """Arguments of `attention.attention` up to the position; rows of several segments, with and without padding."""
    q, k, v, queries = (jnp.asarray(normal(seed, B, H, length, head_dim), dtype) for seed in range(4))
    a, b = length // 3, length // 7
    segments = np.ones((B, length), np.int32)
    segments[0, a:], segments[0, a + b :], segments[0, -b:] = 2, 3, 0
    segments[1, -1:] = 0
    # One distance more than the row needs: its key must be without effect.
    keys = jnp.asarray(normal(5, H, length + 1, head_dim), dtype)
    return q, k, v, jnp.asarray(segments), attention.Position(queries, keys) if with_position else None


def both_passes(function, q, k, v, segments, position):
    """The output, and the gradients of a loss that weighs every number of it differently."""
    weight = normal(6, *q.shape)

    @jax.jit
    def run(q, k, v, position):
        def loss(arrays):
            out = function(*arrays[:3], segments, arrays[3])
            return (out.astype(jnp.float32) * weight).sum(), out

        gradients, out = jax.grad(loss, has_aux=True)((q, k, v, position))
        return out, gradients

    return run(q, k, v, position)


BACKENDS = [
    # backend, with the position term, length, head size, dtype
    ("heads", False, 70, 16, jnp.float32),
    ("heads", True, 70, 16, jnp.float32),
    ("heads", True, 70, 16, jnp.bfloat16),
    ("blocks", False, 70, 16, jnp.float32),
    ("blocks", True, 70, 16, jnp.float32),
    ("blocks", True, 70, 16, jnp.bfloat16),
    ("splash", False, 200, 32, jnp.float32),
    ("splash", False, 640, 128, jnp.bfloat16),
    ("triton", False, 100, 32, jnp.bfloat16),
    ("triton", False, 128, 128, jnp.bfloat16),
    ("relative", True, 300, 32, jnp.float32),
    ("relative", True, 200, 128, jnp.bfloat16),
    ("relative_v3", True, 130, 32, jnp.bfloat16),
    ("relative_triton", True, 200, 32, jnp.float32),
    ("relative_triton", True, 100, 24, jnp.float32),
    ("relative_triton", True, 128, 128, jnp.bfloat16),
]


@pytest.mark.parametrize(("backend", "with_position", "length", "head_dim", "dtype"), BACKENDS)
def test_backends_equal_the_definition_forward_and_backward(
    backend, with_position, length, head_dim, dtype, monkeypatch
):
    """Lengths are no multiple of the block (24), or of a kernel's tile."""
    for name in ("relative", "relative_v3"):
        monkeypatch.setitem(attention.TILES, name, 128)  # interpreted, larger ones compile long
    arguments = case(length, head_dim, with_position, dtype)
    run = functools.partial(attention.run, block=24, backend=backend, interpret=True)
    got, want = both_passes(run, *arguments), both_passes(square, *arguments)
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        b = np.asarray(b, np.float32)
        error = np.abs(np.asarray(a, np.float32) - b).max() / np.abs(b).max()
        assert error < (1e-5 if dtype == jnp.float32 else 2e-2)


@pytest.mark.parametrize("backend", ["heads", "blocks"])
def test_gradient_of_extreme_scores_is_finite(backend):
    q, k, v, segments, _ = case(L, K, False, jnp.float32)
    run = functools.partial(attention.attention, block=4, backend=backend)
    for leaf in jax.tree.leaves(both_passes(run, q * 300, k, v, segments, None)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("with_position", [False, True])
@pytest.mark.parametrize("backend", ["heads", "blocks"])
def test_memory_grows_with_the_length_and_not_with_its_square(backend, with_position):
    """Compiled for this machine: temporary bytes of both passes, and no square among the program's arrays."""

    def compiled(length):
        arguments = case(length, 16, with_position, jnp.float32)
        run = functools.partial(attention.attention, block=32, backend=backend)
        return jax.jit(lambda *x: both_passes(run, *x)).lower(*arguments).compile()

    short, long = compiled(256), compiled(1024)
    grown = long.memory_analysis().temp_size_in_bytes / short.memory_analysis().temp_size_in_bytes
    assert grown < 5, f"4 times as long, {grown:.1f} times the memory"
    assert "1024,1024]" not in long.as_text()


@pytest.mark.parametrize(
    ("backend", "platform", "call"),
    [
        ("splash", "tpu", "tpu_custom_call"),
        ("relative", "tpu", "tpu_custom_call"),
        ("relative_v3", "tpu", "tpu_custom_call"),
        ("triton", "cuda", "triton"),
        ("relative_triton", "cuda", "triton"),
    ],
)
def test_programs_for_accelerators_hold_the_fused_kernel(backend, platform, call):
    """Lowered on a machine without the accelerator; the same names stand in the compiled program."""
    arguments = case(256, 64, backend.startswith("relative"), jnp.bfloat16)
    run = functools.partial(attention.attention, block=128, backend=backend)
    traced = jax.jit(lambda *x: both_passes(run, *x)).trace(*arguments)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert call in program
    assert attention.fused_in(program) == {backend}
    plain = jax.jit(lambda *x: both_passes(functools.partial(run, backend="blocks"), *x)).trace(*arguments)
    assert attention.fused_in(plain.lower(lowering_platforms=(platform,)).as_text()) == set()


def test_choice_of_the_backend():
    rope_16 = preset("gato_364m", position="rope", dtype="bfloat16")
    xl = preset("gato_364m", dtype="bfloat16")
    for config, platform, want in (
        (rope_16, "tpu", "splash"),
        (rope_16, "gpu", "triton"),
        (rope_16.replace(dtype="float32"), "gpu", "blocks"),
        (rope_16, "cpu", "heads"),
        (xl, "tpu", "blocks"),
        (xl, "gpu", "blocks"),
        (xl.replace(attention="fused"), "tpu", "relative"),
        (xl.replace(attention="fused"), "gpu", "relative_triton"),
        (rope_16.replace(attention="fused"), "gpu", "triton"),
        (rope_16.replace(attention="xla"), "tpu", "blocks"),
        (rope_16, "tpu_v3", "blocks"),
        (rope_16.replace(dtype="float32"), "tpu_v3", "splash"),
        (xl, "tpu_v3", "blocks"),
        (xl.replace(attention="fused"), "tpu_v3", "relative_v3"),
    ):
        assert attention.choose(config, platform) == want
    with pytest.raises(ModelError, match="no kernel for position 'transformer_xl' and dtype 'float32' on gpu"):
        attention.choose(xl.replace(attention="fused", dtype="float32"), "gpu")
    with pytest.raises(ModelError, match="on cpu; use 'auto'"):
        attention.choose(xl.replace(attention="fused"), "cpu")
    with pytest.raises(ModelError, match="auto, xla, fused"):
        preset("tiny", attention="flash")


def test_a_run_says_which_kernel_it_could_ask_for():
    config = preset("gato_79m", dtype="bfloat16")
    assert "model.attention=fused takes relative attention, a fused GPU kernel" in attention.describe(config, "gpu")
    for other, platform in (
        (config, "cpu"),
        (config.replace(attention="fused"), "gpu"),
        (config.replace(attention="xla"), "tpu"),
    ):
        assert "model.attention" not in attention.describe(other, platform)


@pytest.mark.parametrize("queries", [1, 3])
def test_scores_by_slot_read_the_distance(queries):
    """Also where the slots have come round."""
    capacity, firsts = 10, (2, 7, 9, 34)
    scores_HBQC = jnp.asarray(normal(0, 2, len(firsts), queries, capacity))
    got = relative.by_slot(scores_HBQC, jnp.asarray(firsts))
    for row, first in enumerate(firsts):
        for i in range(queries):
            for distance in range(min(first + i + 1, capacity)):
                slot = (first + i - distance) % capacity
                np.testing.assert_array_equal(got[row, :, i, slot], scores_HBQC[:, row, i, capacity - 1 - distance])


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

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-6)
    assert score(9, 4) == pytest.approx(score(10_000_005, 10_000_000), abs=1e-6)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
