"""Full memories: thousands of tokens behind the end of the window, against forward passes without any cache."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from gato.inference import decoder
from gato.inference.history import History
from gato.model.transformer import GatoModel
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.token_sequence import ACTION_POSITION, concatenate

STEP = 9  # tokens of a timestep
STEPS = 260
SHOWN = 6  # timesteps of a prompt that fills the memory
SPAN = SHOWN * STEP + 4
TOLERANCE = 1e-5


def play(agent, kinds, observe_spec, demonstration, mode, tokens_of, steps=STEPS):
    """What three rows saw and did, as tokens [T] each, and the logits of every step [steps, 3, A, W].

    The prompt of the first fills the memory, that of the second does not, the third has none.
    """
    spec, rng = kinds["arm/reach"], np.random.default_rng(0)
    prompts = [demonstration(spec, 20, seed=1), demonstration(spec, 2, seed=2)]
    options = {"memory": mode, "memory_tokens": SPAN, "prompt_tokens": SPAN, "prompt_part": "beginning"}
    agent.reset("arm/reach", prompts=[*prompts, None], **options)
    told, logits = ([], [], []), []
    for _ in range(steps):
        observations = [observe_spec(spec, rng) for _ in told]
        for row, action in enumerate(agent.act(observations)):
            told[row].append((observations[row], action))
        logits.append(np.asarray(agent.logits))
    rows = [tokens_of(agent, spec, timesteps) for timesteps in told]
    for row, prompt in enumerate(prompts):
        demonstrated = agent.tokenizer.tokenize(prompt.observations, prompt.actions, spec, {})
        rows[row] = concatenate([demonstrated.slice(0, min(len(prompt), SHOWN)), rows[row]])
    assert [len(row) for row in rows] == [(SHOWN + STEPS) * STEP, (2 + STEPS) * STEP, STEPS * STEP]
    return rows, np.stack(logits)


def assert_same(agent, spec, got_ABW, hidden_AD):
    """Logits of one action against those of the hidden states before each of its tokens."""
    table = np.asarray(agent.params["params"]["embedding"]["table"], np.float64)
    for token, (lo, hi) in enumerate(agent.tokenizer.action_ranges(spec)):
        np.testing.assert_allclose(got_ABW[token, : hi - lo], hidden_AD[token] @ table[lo:hi].T, atol=TOLERANCE)


@pytest.mark.parametrize("position", ["rope", "transformer_xl"])
def test_sliding_is_a_full_forward_over_the_last_tokens(
    make_agent, kinds, observe_spec, demonstration, tokens_of, position
):
    agent, spec = make_agent(position=position), kinds["arm/reach"]
    sequences, logits = play(agent, kinds, observe_spec, demonstration, "sliding", tokens_of)
    for row, sequence in enumerate(sequences):
        ends = sequence.timestep_starts[-STEPS:]
        starts = np.maximum(ends - SPAN, 0)
        history = History(1, agent.meta.vocabulary.padding)
        history.append(np.zeros(len(sequence), np.int32), sequence)
        batch, _ = history.chunk(np.zeros(STEPS, np.int32), starts.astype(np.int32), SPAN)
        batch["positions"] = np.tile(np.arange(SPAN, dtype=np.int32), (STEPS, 1))
        batch["segment_ids"] = (batch["positions"] < (ends - starts)[:, None]).astype(np.int32)
        hidden = np.asarray(jax.jit(GatoModel(agent.meta.model).apply)(agent.params, batch), np.float64)
        for step in range(STEPS):
            last = ends[step] - starts[step]
            assert_same(agent, spec, logits[step, row], hidden[step, last - 4 : last - 1])


@pytest.mark.parametrize("position", ["rope", "transformer_xl"])
def test_memory_is_a_forward_with_a_band_in_every_layer(
    make_agent, kinds, observe_spec, demonstration, tokens_of, position
):
    agent, spec = make_agent(position=position), kinds["arm/reach"]
    sequences, logits = play(agent, kinds, observe_spec, demonstration, "memory", tokens_of)
    for row, sequence in enumerate(sequences):
        hidden = banded_forward(agent.meta.model, agent.params["params"], sequence, SPAN)
        ends = sequence.timestep_starts[-STEPS:]
        for step in range(STEPS):
            assert_same(agent, spec, logits[step, row], hidden[ends[step] - 4 : ends[step] - 1])
        # The band is not the window: through the layers a token sees further back.
        window = banded_forward(agent.meta.model, agent.params["params"], sequence.slice(STEPS - 40, STEPS - 30), SPAN)
        full = hidden[sequence.timestep_starts[STEPS - 30] - 1]
        assert np.abs(window[-1] - full).max() > 100 * TOLERANCE


def banded_forward(config, params, sequence, span):
    """Hidden states [T, D] of a whole sequence in float64; in every layer a token sees `span` tokens up to itself."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    size = config.head_dim
    tables = params["embedding"]
    places = np.concatenate([tables["local_positions"], tables["action_position"], np.zeros((1, config.width))])
    local = sequence.local_position.astype(int)
    local = np.where(local >= 0, local, np.where(local == ACTION_POSITION, len(places) - 2, len(places) - 1))
    x_TD = (tables["table"][sequence.ids] + places[local]) * config.width**0.5
    total, distance_S = len(x_TD), np.arange(span)
    source_TS = np.arange(total)[:, None] - distance_S
    frequencies_K = 10_000.0 ** (-np.arange(0, size, 2) / size)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def rotate(x_THK):
        angle = np.arange(total)[:, None, None] * frequencies_K
        first, second = np.split(x_THK, 2, axis=-1)
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
        )

    for name in [f"blocks_{i}" for i in range(config.layers - 1)] + ["last_block"]:
        block, weights = params[name], params[name]["attention"]
        h_TD = norm(x_TD, block["attention_norm"]["scale"])
        q, k, v = (np.einsum("td,dhk->thk", h_TD, weights[part]) for part in ("query", "key", "value"))
        if config.position == "rope":
            scores_THS = np.einsum("thk,tshk->ths", rotate(q), rotate(k)[source_TS])
        else:
            width = config.width
            angle_SD = distance_S[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)
            r_SHK = np.einsum(
                "sd,dhk->shk", np.concatenate([np.sin(angle_SD), np.cos(angle_SD)], axis=-1), weights["relative"]
            )
            scores_THS = np.einsum("thk,tshk->ths", q + weights["u"], k[source_TS])
            scores_THS += np.einsum("thk,shk->ths", q + weights["v"], r_SHK)
        scores_THS = np.where((source_TS >= 0)[:, None], scores_THS * size**-0.5, -np.inf)
        mix_THS = np.exp(scores_THS - scores_THS.max(-1, keepdims=True))
        mix_THS /= mix_THS.sum(-1, keepdims=True)
        x_TD = x_TD + np.einsum("ths,tshk,hkd->td", mix_THS, v[source_TS], weights["out"])
        h_TD, weights = norm(x_TD, block["feed_forward_norm"]["scale"]), block["feed_forward"]
        gate = h_TD @ weights["gate"]
        gate = gate / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        x_TD = x_TD + (gate * (h_TD @ weights["value"])) @ weights["down"]
    return norm(x_TD, params["norm"]["scale"])


@pytest.mark.parametrize("mode", ["sliding", "memory"])
def test_an_episode_begins_anew_behind_a_prompt_that_fills_the_memory(
    make_agent, kinds, observe_spec, demonstration, mode
):
    agent, spec, rng = make_agent(), kinds["arm/reach"], np.random.default_rng(0)
    sizes = {"memory_tokens": SHOWN * STEP, "prompt_tokens": SHOWN * STEP}
    agent.reset("arm/reach", prompts=[demonstration(spec, 9, seed=1)], memory=mode, **sizes)
    seen = [observe_spec(spec, rng) for _ in range(30)]  # a ring of this memory has come round

    def play(observations):
        agent.restart([0], seeds=[1])
        logits = []
        for observation in observations:
            agent.act([observation])
            logits.append(np.asarray(agent.logits))
        return np.stack(logits)

    first = play(seen)
    np.testing.assert_allclose(play(seen[:8]), first[:8], atol=TOLERANCE)
    assert np.abs(first[0] - first[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("position", ["rope", "transformer_xl"])
def test_positions_begin_anew_before_they_wrap_and_nothing_else_changes(
    make_agent, kinds, observe_spec, demonstration, monkeypatch, position
):
    agent, spec = make_agent(position=position), kinds["arm/reach"]
    prompts = [demonstration(spec, 2, seed=1), None]

    def play(steps):
        rng, logits = np.random.default_rng(0), []
        agent.reset("arm/reach", prompts=prompts, seeds=[0, 1], memory="memory", memory_tokens=SPAN)
        for step in range(steps):
            observations = [observe_spec(spec, rng) for _ in prompts]
            agent.act([observations[0], None if step % 2 else observations[1]])
            logits.append(np.asarray(agent.logits[0]))
        farthest = agent._session.memory.positions.max()
        agent.restart([0], seeds=[0])
        agent.act([observations[0], None])
        return np.stack([*logits, agent.logits[0]]), farthest

    expected, farthest = play(140)
    monkeypatch.setattr(decoder, "FAR", 600)  # of 2^30
    got, near = play(140)
    assert near < 700 < farthest
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


@pytest.mark.parametrize("mode", ["window", "sliding", "memory"])
def test_nothing_is_compiled_once_each_kind_of_step_was_seen(
    make_agent, kinds, observe_spec, demonstration, caplog, mode
):
    agent, spec, rng = make_agent(window=3), kinds["arm/reach"], np.random.default_rng(0)

    def play_some(prompts):
        agent.reset("arm/reach", prompts=prompts, memory=mode, memory_tokens=64)
        for step in range(12):
            observations = [observe_spec(spec, rng) for _ in prompts]
            agent.act([observations[0], None if step % 4 == 3 else observations[1]])
        agent.restart([0])
        agent.begin(1, prompt=prompts[0])
        agent.act([None, observations[0]])
        agent.act(observations)

    play_some([demonstration(spec, 3, seed=1), None])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        play_some([demonstration(spec, 2, seed=3), None])
        compiled = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]
        assert not compiled
        # Another embodiment is another program: the count does count.
        other = EpisodeSpec.of({"x": LeafSpec("continuous", (len(mode),))}, LeafSpec("discrete", values=7))
        agent.reset(spec=other, memory=mode)
        agent.act([observe_spec(other, rng)])
    assert any(record.getMessage().startswith("Compiling") for record in caplog.records)
