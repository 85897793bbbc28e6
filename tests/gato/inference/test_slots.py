"""Rows of one batch live their own lives: what a row does is what it would do alone."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from gato.inference import decoder
from gato.inference.agent import AgentError

SPEC = "arm/reach"
STEPS = 9
MODES = {
    "window": ("transformer_xl", {}),
    "sliding": ("rope", {"memory": "sliding", "memory_tokens": 24}),
    "memory": ("transformer_xl", {"memory": "memory", "memory_tokens": 24}),
}


def script(kinds, observe_spec, demonstration):
    """For each of five sessions: a prompt, a seed, and its observations."""
    rng = np.random.default_rng(0)
    return [
        (
            demonstration(kinds[SPEC], 3, seed=i) if i % 2 else None,
            1000 + i,
            [observe_spec(kinds[SPEC], rng) for _ in range(STEPS)],
        )
        for i in range(5)
    ]


def alone(agent, session, options):
    prompt, seed, observations = session
    agent.reset(SPEC, prompts=[prompt], seeds=[seed], **options)
    told = []
    for observation in observations:
        (action,) = agent.act([observation])
        told.append((action, np.asarray(agent.logits[0])))
    return told


@pytest.mark.parametrize("mode", MODES)
def test_sessions_that_share_slots_act_as_if_alone(make_agent, kinds, observe_spec, demonstration, mode):
    """Five sessions, one after the other in any of three slots, in an order drawn at random."""
    position, options = MODES[mode]
    agent, rng = make_agent(window=3, position=position, length=64), np.random.default_rng(7)
    sessions = script(kinds, observe_spec, demonstration)
    expected = [alone(agent, session, options) for session in sessions]
    agent.reset(SPEC, batch=3, **options)
    waiting, slots = list(range(5)), [None] * 3
    done = [0] * 5
    numbers_acting = set()
    while waiting or any(slot is not None for slot in slots):
        for row in range(3):
            if slots[row] is None and waiting and rng.random() < 0.5:
                slots[row] = waiting.pop(0)
                prompt, seed, _ = sessions[slots[row]]
                agent.begin(row, prompt=prompt, seed=seed)
        acts = [slot is not None and rng.random() < 0.6 for slot in slots]
        observations = [sessions[slot][2][done[slot]] if act else None for slot, act in zip(slots, acts, strict=True)]
        actions = agent.act(observations)
        assert [action is not None for action in actions] == acts
        numbers_acting.add(sum(acts))
        for i, row in enumerate(np.flatnonzero(acts)):
            action, logits = expected[slots[row]][done[slots[row]]]
            np.testing.assert_allclose(np.asarray(agent.logits[i]), logits, atol=1e-5)
            for path, value in action.items():
                np.testing.assert_array_equal(actions[row][path], value)
            done[slots[row]] += 1
            if done[slots[row]] == STEPS:
                slots[row] = None
    assert done == [STEPS] * 5
    assert numbers_acting == {0, 1, 2, 3}


def test_a_refused_observation_changes_no_row(make_agent, kinds, observe_spec):
    agent, rng = make_agent(window=3), np.random.default_rng(1)
    seen = [[observe_spec(kinds[SPEC], rng) for _ in range(2)] for _ in range(3)]

    def play(mishap):
        agent.reset(SPEC, batch=2, seeds=[1, 2])
        for observations in seen:
            if mishap:
                with pytest.raises(Exception, match="hand"):
                    agent.act([observations[0], {**observations[1], "hand": np.zeros(7)}])
            actions = agent.act(observations)
        return [float(action["move"][0]) for action in actions]

    assert play(mishap=True) == play(mishap=False)


def test_seeds_decide_the_draws_and_are_new_unless_given(make_agent, kinds, observe_spec):
    agent = make_agent()
    observation = observe_spec(kinds[SPEC], np.random.default_rng(2))

    def moves(**options):
        agent.reset(SPEC, batch=2, **options)
        return [tuple(action["move"]) for action in agent.act([observation] * 2)]

    assert moves(seeds=[5, 5])[0] == moves(seeds=[6, 5])[1]
    assert len({*moves(), *moves(), *moves(seeds=[5, 6])}) == 6
    agent.reset(SPEC, batch=2, seeds=[5, 6])
    first = [agent.act([observation] * 2)[0]["move"][0] for _ in range(2)]
    agent.restart([0], seeds=[5])
    assert agent.act([observation, None])[0]["move"][0] == first[0]
    other = make_agent(seed=1)
    other.reset(SPEC, batch=2, seeds=[5, 6])
    assert other.act([observation] * 2)[0]["move"][0] != first[0]


def test_nobody_who_names_a_seed_draws_what_a_row_without_one_drew(make_agent, kinds, observe_spec):
    agent = make_agent()
    observation = observe_spec(kinds[SPEC], np.random.default_rng(2))

    def moves(**options):
        agent.reset(SPEC, batch=4, temperature=50.0, **options)
        return {tuple(action["move"]) for action in agent.act([observation] * 4)}

    assert not moves() & moves(seeds=range(4))


@pytest.mark.parametrize("seed", [-1, 1 << 32, 1.0, "1"])
def test_what_is_no_seed_is_refused_before_a_row_changes(make_agent, kinds, observe_spec, seed):
    agent, seen = make_agent(window=3), [observe_spec(kinds[SPEC], np.random.default_rng(i)) for i in range(3)]

    def play(mishap):
        agent.reset(SPEC, batch=2, seeds=[1, 2])
        for observation in seen:
            if mishap:
                for call in (
                    lambda: agent.begin(0, seed=seed),
                    lambda: agent.restart([0, 1], seeds=[5, seed]),
                    lambda: agent.restart([0, 1], seeds=[5]),
                    lambda: agent.reset(SPEC, batch=2, seeds=[5, seed]),
                ):
                    with pytest.raises(AgentError, match="seed"):
                        call()
            actions = agent.act([observation] * 2)
        return [float(action["move"][0]) for action in actions]

    assert play(mishap=True) == play(mishap=False)


def test_a_new_session_has_its_own_target_and_reward(make_agent, kinds, observe_spec):
    agent, rng = make_agent("return_conditioned", window=1), np.random.default_rng(3)
    observation = observe_spec(kinds[SPEC], rng)
    agent.reset(SPEC, batch=2, targets=[5.0, 9.0], temperature=0.0)
    agent.act([observation, observation])
    agent.begin(0, target=3.0)
    agent.act([observation, None])  # a first timestep needs no reward
    fresh = agent.recipe.conditioning({})
    assert agent._session.conditions.values[0] == fresh.start(3.0)
    agent.act([observation, None], rewards=[1.0, None])
    assert agent._session.conditions.values[0] == fresh.update(1.0)
    untouched = agent.recipe.conditioning({})
    assert agent._session.conditions.values[1] == untouched.start(9.0)


def device_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def test_there_is_one_cache_at_a_time_and_none_after_release(make_agent, kinds, observe_spec, monkeypatch):
    agent, observation = make_agent(), observe_spec(kinds[SPEC], np.random.default_rng(0))
    agent.params, at_first = jax.block_until_ready(agent.params), device_bytes()
    agent.reset(SPEC, batch=16, seeds=range(16))
    whole = device_bytes() - at_first
    before, init_cache = [], decoder.init_cache
    monkeypatch.setattr(decoder, "init_cache", lambda *a: before.append(device_bytes()) or init_cache(*a))
    agent.reset(SPEC, batch=16, seeds=range(16))
    assert before[0] < at_first + whole / 2
    first = agent.act([observation] * 16)
    acted = device_bytes()
    agent.release()
    assert device_bytes() < acted - whole / 2
    agent.begin(3, seed=3)
    (again,) = [action for action in agent.act([observation if row == 3 else None for row in range(16)]) if action]
    assert again["move"].tolist() == first[3]["move"].tolist()


def test_mistakes_are_named(make_agent):
    agent = make_agent()
    with pytest.raises(AgentError, match="reset"):
        agent.begin(0)
    agent.reset(SPEC, batch=2)
    with pytest.raises(AgentError, match="row 2 of 2"):
        agent.begin(2)
    with pytest.raises(AgentError, match="'grid/reader' and the batch differ"):
        agent.begin(0, source="grid/reader")
    with pytest.raises(AgentError, match="'arm/far' and the batch differ"):
        arm = agent.meta.sources[SPEC]
        agent.meta.sources["arm/far"] = dataclasses.replace(arm, window_timesteps=7)
        agent.begin(0, source="arm/far")
    with pytest.raises(AgentError, match="1 seeds for 2"):
        agent.reset(SPEC, batch=2, seeds=[1])
    with pytest.raises(AgentError, match="window, sliding, memory; got 'ring'"):
        agent.reset(SPEC, memory="ring")
    with pytest.raises(AgentError, match="window_timesteps belongs to"):
        agent.reset(SPEC, memory="memory", window_timesteps=3)
    with pytest.raises(AgentError, match="at least 9, one timestep"):
        agent.reset(SPEC, memory="sliding", memory_tokens=8)
    with pytest.raises(
        AgentError, match="is 129, but memory='window' takes at most 128; memory='memory' takes up to 256"
    ):
        agent.reset(SPEC, prompt_tokens=129)
    with pytest.raises(AgentError, match="prompt_tokens is 41, but memory='sliding' takes at most 40"):
        agent.reset(SPEC, memory="sliding", memory_tokens=40, prompt_tokens=41)
    with pytest.raises(AgentError, match="prompt_tokens must be at least 1, got 0"):
        agent.reset(SPEC, prompt_tokens=0)
    with pytest.raises(AgentError, match="prompt_part is one of end, beginning; got 'middle'"):
        agent.reset(SPEC, prompt_part="middle")
