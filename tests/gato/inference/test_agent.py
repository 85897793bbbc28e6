"""The agent: cached acting is a full forward pass, actions are legal, mistakes are named."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.inference import sampler
from gato.inference.agent import AgentError
from gato.tokenizers.errors import SpecError, VocabularyError
from gato.tokenizers.spec import EpisodeSpec, LeafSpec


@pytest.mark.parametrize(
    ("name", "window", "position"),
    [
        ("arm/reach", 1, "rope"),
        ("arm/reach", 5, "transformer_xl"),
        ("arm/reach", None, "rope"),
        ("grid/reader", 2, "rope"),
        ("grid/reader", 4, "transformer_xl"),
        ("grid/reader", None, "transformer_xl"),
        ("game/seer", 3, "rope"),
    ],
)
def test_cached_acting_is_a_full_forward(
    make_agent, kinds, observe_spec, demonstration, full_logits, name, window, position
):
    agent = make_agent(position=position, window=window, length=96)
    spec = kinds[name]
    prompts = [demonstration(spec, 3, seed=1), None, demonstration(spec, 4, seed=2)]
    agent.reset(name, prompts=prompts)
    memory, rng = agent._session.memory, np.random.default_rng(0)
    past: list[list] = [[], [], []]
    was_full = False
    for step in range(8 if window is not None else 14):
        observations = [observe_spec(spec, rng) for _ in prompts]
        before = [len(starts) for starts in memory._starts]
        actions = agent.act(observations)
        for row, prompt in enumerate(prompts):
            age = len(memory._starts[row])
            remembered = past[row][len(past[row]) - (age - 1) :]
            if row == step % 3:
                expected = full_logits(agent, spec, prompt, remembered, observations[row], actions[row])
                for token, logits in enumerate(expected):
                    got = np.asarray(agent.logits[row, token, : len(logits)])
                    np.testing.assert_allclose(got, logits, atol=1e-5, err_msg=f"step {step}, token {token}")
            past[row].append((observations[row], actions[row]))
            full = age <= before[row]
            was_full |= full
            if window is not None:
                # Never more than the window, never less than half of it.
                assert min(step + 1, window // 2 + 1) <= age <= window
                assert full == (before[row] == window)
    assert was_full


def test_a_row_that_restarts_forgets_and_the_others_do_not(make_agent, kinds, observe_spec, demonstration, full_logits):
    agent, spec, rng = make_agent(window=4), kinds["arm/reach"], np.random.default_rng(3)
    prompt = demonstration(spec, 3, seed=1)
    agent.reset("arm/reach", prompts=[prompt, prompt], temperature=0.0)
    seen = [[observe_spec(spec, rng) for _ in range(2)] for _ in range(3)]
    past = [agent.act(observations) for observations in seen[:2]]
    agent.restart([0])
    actions = agent.act(seen[2])
    fresh = full_logits(agent, spec, prompt, [], seen[2][0], actions[0])
    remembered = [(seen[i][1], past[i][1]) for i in range(2)]
    old = full_logits(agent, spec, prompt, remembered, seen[2][1], actions[1])
    for token in range(3):
        np.testing.assert_allclose(np.asarray(agent.logits[0, token, : len(fresh[token])]), fresh[token], atol=1e-5)
        np.testing.assert_allclose(np.asarray(agent.logits[1, token, : len(old[token])]), old[token], atol=1e-5)


def test_rows_that_stay_go_on_as_before(make_agent, kinds, observe_spec, demonstration):
    spec, rng = kinds["grid/reader"], np.random.default_rng(4)
    prompts = [demonstration(spec, 3, seed=seed) for seed in range(4)]
    seen = [[observe_spec(spec, rng) for _ in range(4)] for _ in range(5)]
    agent = make_agent(window=4)
    agent.reset("grid/reader", prompts=prompts, temperature=0.0)
    whole = [agent.act(observations) for observations in seen]
    last = np.asarray(agent.logits)
    agent.reset("grid/reader", prompts=prompts, temperature=0.0)
    for observations in seen[:2]:
        agent.act(observations)
    agent.keep([1, 3])
    for step in (2, 3, 4):
        kept = agent.act([seen[step][1], seen[step][3]])
        assert [a["action"] for a in kept] == [whole[step][row]["action"] for row in (1, 3)]
    np.testing.assert_allclose(np.asarray(agent.logits), last[[1, 3]], atol=1e-5)


def test_actions_are_legal_at_any_temperature(make_agent, kinds, observe_spec):
    agent, spec, rng = make_agent(), kinds["arm/reach"], np.random.default_rng(5)
    agent.reset("arm/reach", batch=64, temperature=50.0)
    grips = set()
    for _ in range(3):
        for action in agent.act([observe_spec(spec, rng) for _ in range(64)]):
            assert action["move"].shape == (2,)
            assert np.abs(action["move"]).max() <= 2.0
            grips.add(int(action["grip"]))
    assert grips == {0, 1, 2}


def test_temperature_zero_takes_the_largest_logit_and_the_seed_decides_the_rest(make_agent, kinds, observe_spec):
    spec, rng = kinds["arm/reach"], np.random.default_rng(6)
    observations = [observe_spec(spec, rng) for _ in range(8)]
    agent = make_agent()
    agent.reset("arm/reach", batch=8, temperature=0.0)
    first = agent.act(observations)
    # Actions stand in lexicographic order: the grip's token comes first.
    assert [int(a["grip"]) for a in first] == np.argmax(np.asarray(agent.logits)[:, 0, :3], axis=-1).tolist()

    def drawn():
        other = make_agent()
        other.reset("arm/reach", batch=8)
        return [float(a["move"][0]) for a in other.act(observations)]

    assert drawn() == drawn()
    assert drawn() != [float(a["move"][0]) for a in first]


def test_a_recipe_conditions_on_its_target_and_the_rewards(make_agent, kinds, observe_spec, demonstration, full_logits):
    agent, spec, rng = make_agent("return_conditioned", window=1), kinds["arm/reach"], np.random.default_rng(7)
    observation = observe_spec(spec, rng)
    prompt = demonstration(spec, 5, seed=1)
    agent.reset("arm/reach", prompts=[prompt, prompt], targets=[None, 3.0], temperature=0.0)
    agent.act([observation] * 2)
    actions = agent.act([observation] * 2, rewards=[4.0, 1.0])
    leaf, scaled = next(iter(agent.meta.layout.derived)), agent.recipe.derive
    for row, to_go in enumerate((6.0, 2.0)):
        episode = demonstration(spec, 1, seed=0)
        episode.rewards = np.array([to_go], np.float32)
        derived = {leaf: scaled(episode)[leaf]}
        for token, logits in enumerate(full_logits(agent, spec, prompt, [], observation, actions[row], derived)):
            np.testing.assert_allclose(np.asarray(agent.logits[row, token, : len(logits)]), logits, atol=1e-5)
    with pytest.raises(AgentError, match=r"conditions on rewards.*rewards="):
        agent.act([observation] * 2)


@pytest.mark.parametrize("wrong", [np.zeros(4), np.full(3, np.nan)], ids=["shape", "NaN"])
def test_a_refused_observation_does_not_count_its_reward(make_agent, kinds, observe_spec, wrong):
    agent, rng = make_agent("return_conditioned", window=1), np.random.default_rng(9)
    observation = observe_spec(kinds["arm/reach"], rng)
    agent.reset("arm/reach", targets=[3.0], temperature=0.0)
    agent.act([observation])
    with pytest.raises(SpecError, match="hand"):
        agent.act([{**observation, "hand": wrong}], rewards=[1.0])
    agent.act([observation], rewards=[1.0])
    conditioning = agent.recipe.conditioning({})
    conditioning.start(3.0)
    assert agent._session.conditions.values == [conditioning.update(1.0)]


def test_mistakes_name_the_leaf_and_the_way_out(make_agent, kinds, observe_spec):
    agent, rng = make_agent(), np.random.default_rng(8)
    with pytest.raises(AgentError, match="reset"):
        agent.act([{}])
    with pytest.raises(AgentError, match="did you mean 'arm/reach'"):
        agent.reset("arm/raech")
    with pytest.raises(AgentError, match="generate"):
        agent.reset("captions/rooms")
    agent.reset("arm/reach", batch=2)
    good = observe_spec(kinds["arm/reach"], rng)
    with pytest.raises(AgentError, match="1 observations for 2"):
        agent.act([good])
    with pytest.raises(AgentError, match="a list with an observation for each environment"):
        agent.act(good)
    with pytest.raises(SpecError, match=r"'hand' of environment 1: shape \(4,\), but the spec says \(3,\)"):
        agent.act([good, {**good, "hand": np.zeros(4)}])
    with pytest.raises(SpecError, match="environment 1: leaf 'goal' is missing; it has hand"):
        agent.act([good, {"hand": good["hand"]}])
    with pytest.raises(SpecError, match="hand"):
        agent.act([good, {**good, "hand": np.full(3, np.nan)}])
    wide = EpisodeSpec.of({"x": LeafSpec("continuous", (1,))}, LeafSpec("discrete", values=5000))
    with pytest.raises(VocabularyError, match="5000 values"):
        agent.reset(spec=wide)
    unbounded = EpisodeSpec.of({"x": LeafSpec("continuous", (1,))}, LeafSpec("continuous", (2,)))
    with pytest.raises(SpecError, match="low"):
        agent.reset(spec=unbounded)
    with pytest.raises(AgentError, match="window_timesteps"):
        agent.reset("arm/reach", window_timesteps=0)


def test_a_new_embodiment_acts_from_its_spec_and_nested_observations_are_flattened(make_agent):
    agent = make_agent(length=64)
    spec = EpisodeSpec.of(
        {"body": {"speed": LeafSpec("continuous", (2,))}, "battery": LeafSpec("discrete", values=4)},
        LeafSpec("continuous", (12,), low=-1.0, high=1.0),
    )
    agent.reset(spec=spec, batch=2)
    nested = {"body": {"speed": np.ones(2)}, "battery": np.int64(3)}
    for _ in range(6):
        flat = agent.act([nested, {"body.speed": np.ones(2), "battery": 3}])
        assert flat[0]["action"].shape == (12,)
        # Memory fills the training length and never more: a longer sequence was never seen.
        assert agent._session.memory.positions.max() < 64
    assert jnp.isfinite(agent.logits).all()


def test_the_draws_of_an_episode_depend_on_its_seed_and_on_nothing_else(make_agent, kinds, observe_spec):
    spec, rng = kinds["arm/reach"], np.random.default_rng(6)
    seen = [observe_spec(spec, rng) for _ in range(3)]
    agent = make_agent(window=1)
    played = {}
    for batch, row, other in ((1, 0, 7), (5, 3, 7), (5, 3, 8)):
        agent.reset("arm/reach", batch=batch)
        agent.act([seen[0]] * batch)  # an earlier episode
        agent.restart(range(batch), seeds=[other if i == row else 100 + i for i in range(batch)])
        chosen = [agent.act([observation] * batch)[row] for observation in seen]
        played[batch, other] = [(*action["move"], action["grip"]) for action in chosen]
    assert played[1, 7] == played[5, 7] != played[5, 8]
    agent.reset("arm/reach", batch=2)
    first, second = agent.act([seen[0]] * 2)
    assert first["move"].tolist() != second["move"].tolist()  # unnamed seeds differ


@pytest.mark.parametrize("part", ["beginning", "end"])
def test_a_prompt_shows_the_beginning_or_the_end_of_a_demonstration(
    make_agent, kinds, observe_spec, demonstration, full_logits, part
):
    agent, spec = make_agent(window=1), kinds["arm/reach"]
    whole = demonstration(spec, 9, seed=1)
    shown = slice(0, 2) if part == "beginning" else slice(7, 9)
    expected = Episode(
        {path: values[shown] for path, values in whole.observations.items()},
        {path: values[shown] for path, values in whole.actions.items()},
        whole.rewards[shown],
    )
    observation = observe_spec(spec, np.random.default_rng(7))
    logits = []
    for prompt, which in ((whole, part), (expected, "end"), (None, "end")):
        agent.reset("arm/reach", batch=1, prompts=[prompt], prompt_part=which, seeds=[0])
        agent.act([observation])
        logits.append(np.asarray(agent.logits))
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


@pytest.mark.parametrize("memory", ["window", "sliding", "memory"])
@pytest.mark.parametrize(
    ("name", "part", "tokens"),
    [("arm/reach", "end", 45), ("arm/reach", "beginning", 53), ("grid/reader", "beginning", 45)],
)
def test_so_many_tokens_of_a_demonstration_are_what_the_network_sees(
    make_agent, kinds, observe_spec, demonstration, full_logits, tokens_of, name, part, tokens, memory
):
    agent, spec = make_agent(window=1), kinds[name]
    prompt = demonstration(spec, 12, seed=1)
    told = [
        tuple({path: values[t] for path, values in leaves.items()} for leaves in (prompt.observations, prompt.actions))
        for t in range(len(prompt))
    ]
    from_part = told if part == "beginning" else told[::-1]
    fits = max(n for n in range(13) if n == 0 or len(tokens_of(agent, spec, from_part[:n])) <= tokens)
    assert fits == 5 if name == "arm/reach" else 1 < fits < 12
    shown = told[:fits] if part == "beginning" else told[-fits:]
    observation = observe_spec(spec, np.random.default_rng(7))
    agent.reset(name, prompts=[prompt], memory=memory, prompt_tokens=tokens, prompt_part=part)
    (action,) = agent.act([observation])
    for token, logits in enumerate(full_logits(agent, spec, None, shown, observation, action)):
        np.testing.assert_allclose(np.asarray(agent.logits[0, token, : len(logits)]), logits, atol=1e-5)


@pytest.fixture
def widths(monkeypatch):
    """Tokens of the chunk that each call that acts has read."""
    seen, call = [], sampler.extend_and_act

    def watched(config, ranges, params, cache, index, lengths, tokens, *rest):
        seen.append(tokens["ids"].shape[1])
        return call(config, ranges, params, cache, index, lengths, tokens, *rest)

    monkeypatch.setattr(sampler, "extend_and_act", watched)
    return seen


def test_a_long_text_widens_the_call_that_reads_it_and_no_other(make_agent, kinds, observe_spec, widths, caplog):
    agent = make_agent(window=1)
    short = observe_spec(kinds["grid/reader"], np.random.default_rng(0)) | {"mission": "go"}
    long = short | {"mission": "open the purple door now " * 6}

    def play():
        logits = []
        agent.reset("grid/reader", batch=1, seeds=[0])
        for observation in (short, long, short):
            agent.act([observation])
            logits.append(np.asarray(agent.logits))
        return logits

    before, _, after = play()
    assert widths[0] == widths[2] == 16 < widths[1]
    np.testing.assert_allclose(after, before, atol=1e-5)  # a window of one timestep: nothing else has changed
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        play()
    assert not [record for record in caplog.records if record.getMessage().startswith("Compiling")]


def test_rows_have_room_for_usual_texts_from_the_start(make_agent, kinds, observe_spec, demonstration, monkeypatch):
    """A cache that grows compiles every program again."""
    grown, grow = [], sampler.grow
    monkeypatch.setattr(sampler, "grow", lambda *caches: grown.append(1) or grow(*caches))
    agent, observation = make_agent(window=1), observe_spec(kinds["grid/reader"], np.random.default_rng(0))
    shown = demonstration(kinds["grid/reader"], steps=2, seed=0)

    def play(words):
        mission = " ".join(["go"] * words)
        shown.observations["mission"] = [mission] * 2
        agent.reset("grid/reader", prompts=[shown])
        agent.act([observation | {"mission": mission}])

    for words in (1, 9, 25):
        play(words)
    assert not grown
    play(70)
    assert grown


def test_without_text_every_call_is_as_wide_as_its_tokens(make_agent, kinds, observe_spec, widths):
    agent, rng = make_agent(window=1), np.random.default_rng(0)
    agent.reset("arm/reach", batch=1)
    for _ in range(3):
        agent.act([observe_spec(kinds["arm/reach"], rng)])
    assert set(widths) == {1 + 5 + 1}  # the last action's last token, five values, the separator
