from __future__ import annotations

import jax
import numpy as np
import pytest

from gato.inference.sampler import Sampling, SamplingError, fold_each, sample

LOGITS = np.log(np.array([0.05, 0.4, 0.3, 0.2, 0.05], np.float32))
DRAWS = 6_000


def frequencies(sampling, logits=LOGITS, seed=0):
    keys = fold_each(jax.numpy.broadcast_to(jax.random.key(seed), DRAWS), np.arange(DRAWS))
    drawn = np.asarray(sample(np.tile(logits, (DRAWS, 1)), keys, sampling))
    return np.bincount(drawn, minlength=len(logits)) / DRAWS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((1.0,), [0.05, 0.4, 0.3, 0.2, 0.05]),
        ((0.5,), np.array([0.05, 0.4, 0.3, 0.2, 0.05]) ** 2 / 0.295),
        ((0.0,), [0, 1, 0, 0, 0]),
        ((1.0, 1), [0, 1, 0, 0, 0]),
        ((1.0, 2), [0, 4 / 7, 3 / 7, 0, 0]),
        ((1.0, 100), [0.05, 0.4, 0.3, 0.2, 0.05]),
        ((1.0, None, 0.5), [0, 4 / 7, 3 / 7, 0, 0]),
        ((1.0, None, 0.75), [0, 4 / 9, 3 / 9, 2 / 9, 0]),
        ((1.0, None, 1e-9), [0, 1, 0, 0, 0]),
        ((1.0, 2, 0.5), [0, 1, 0, 0, 0]),  # of the two that top-k leaves, one has more than a half
        ((1.0, None, 1.0), [0.05, 0.4, 0.3, 0.2, 0.05]),
    ],
)
def test_draws_follow_the_distribution(options, expected):
    np.testing.assert_allclose(frequencies(Sampling.of(*options)), expected, atol=0.025)


def test_a_rows_draw_is_its_keys():
    sampling = Sampling.of(1.0)
    keys = fold_each(jax.numpy.broadcast_to(jax.random.key(3), 8), np.arange(8))
    together = sample(np.tile(LOGITS, (8, 1)), keys, sampling)
    for row in range(8):
        assert sample(LOGITS[None], keys[row : row + 1], sampling)[0] == together[row]
    assert len(set(np.asarray(together).tolist())) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((-1.0,), "temperature must be at least 0"),
        ((float("nan"),), "temperature"),
        ((1.0, 0), "top_k must be at least 1"),
        ((1.0, None, 0.0), "top_p must be above 0"),
        ((1.0, None, 1.5), "top_p"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(SamplingError, match=message):
        Sampling.of(*options)


def test_control_and_text_take_the_same_options(make_agent, kinds, observe_spec):
    agent, rng = make_agent(), np.random.default_rng(0)
    observations = [observe_spec(kinds["arm/reach"], rng) for _ in range(4)]
    images = {"image": rng.integers(256, size=(3, 16, 32, 3), dtype=np.uint8)}

    def moves(**options):
        agent.reset("arm/reach", batch=4, **options)
        return [tuple(action["move"]) for action in agent.act(observations)]

    assert moves(top_k=1) == moves(temperature=0.0) == moves(top_p=1e-6) != moves()
    greedy = agent.generate("captions/rooms", images, temperature=0.0, limit=4)
    assert agent.generate("captions/rooms", images, top_k=1, limit=4) == greedy
    assert agent.generate("captions/rooms", images, top_p=1e-6, limit=4) == greedy
    assert agent.generate("captions/rooms", images, limit=4) != greedy
