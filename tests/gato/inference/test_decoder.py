"""The compiled calls of acting: their shapes fit the cache, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest

STEP = 9  # tokens of a timestep


@pytest.mark.parametrize("capacity", [48, 80, 96, 112])
def test_chunks_are_never_wider_than_the_cache(
    make_agent, kinds, observe_spec, demonstration, full_logits, tokens_of, capacity
):
    agent, spec = make_agent(window=1), kinds["arm/reach"]
    shown = capacity // STEP - 1
    prompt = demonstration(spec, shown, seed=1)
    agent.reset("arm/reach", prompts=[prompt], prompt_tokens=shown * STEP)
    assert agent._session.decoder.capacity == capacity
    agent.compile([0])
    observation = observe_spec(spec, np.random.default_rng(7))
    (action,) = agent.act([observation])
    told = [
        tuple({path: values[t] for path, values in leaves.items()} for leaves in (prompt.observations, prompt.actions))
        for t in range(shown)
    ]
    for token, logits in enumerate(full_logits(agent, spec, None, told, observation, action)):
        np.testing.assert_allclose(np.asarray(agent.logits[0, token, : len(logits)]), logits, atol=1e-5)
    # A full row is read again from its beginning.
    agent.reset("arm/reach", prompts=[prompt], memory="sliding", memory_tokens=capacity)
    assert agent._session.decoder.capacity == capacity
    for _ in range(capacity // STEP + 1):
        agent.act([observation])
    assert np.isfinite(agent.logits).all()
