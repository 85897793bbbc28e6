"""Rows, prompts and compiled programs of a server, without the server."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.inference import sampler
from gato.inference.agent import Agent
from gato.model.config import ModelError
from gato.serving import policy as policy_file
from gato.serving.policy import Policy, Step
from gato.serving.requests import OpenRequest, RequestError
from gato.training.config import TrainConfig
from gato.training.run_directory import prepare


def test_nothing_is_compiled_after_warming(run, observe, demonstrate, caplog):
    policy, rng = Policy(Agent.from_checkpoint(run), 4, run, temperature=0.0), np.random.default_rng(0)

    def compiled():
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if message.startswith("Compiling")]

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        policy.warm("arm/reach")
        assert compiled()
        caplog.clear()
        # Prompts of any length; rows of four timesteps that fill at different times; one of them acts, or some, or all.
        for lengths in ((5, 1, 3, 4), (2, None, 1, 2)):
            sessions = []
            for count in lengths:
                leaves = demonstrate(0)
                prompt = {group: {k: v[:count] for k, v in leaves[group].items()} for group in leaves}
                wanted = OpenRequest("arm/push", prompt if count else None, None, 0)
                sessions.append(policy.open(wanted, policy.prompt(wanted)))
            for acting in (sessions, sessions[:1], sessions[1:], sessions[2:], *[sessions] * 4, *[sessions[1:]] * 5):
                for action in policy.act([Step(session, observe(rng), None) for session in acting]):
                    assert not isinstance(action, Exception)
            for session in sessions:
                policy.close(session)
        assert not compiled()


def test_embodiments_take_turns_and_compile_nothing_again(run, observe, caplog):
    policy, rng = Policy(Agent.from_checkpoint(run), 1, run, temperature=0.0), np.random.default_rng(0)
    short, long = ({"image": np.zeros((16, 16, 3), np.uint8), "mission": "red ball " * n} for n in (1, 40))

    def play(source, *observations):
        session = policy.open(OpenRequest(source, None, None, 0), None)
        actions = [policy.act([Step(session, observation, None)])[0] for observation in observations]
        policy.close(session)
        return actions

    first = play("room/read", long, short)  # the row has grown before the short text is read
    play("arm/reach", observe(rng))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        again = play("room/read", short, long)
        play("arm/push", observe(rng))
    assert not [record.getMessage()[:40] for record in caplog.records if record.getMessage().startswith("Compiling")]
    assert again == first[::-1]


def test_prompts_by_name_do_without_the_stores_that_are_missing(run, tmp_path, demonstrate, monkeypatch):
    agent = Agent.from_checkpoint(run)
    sources = tuple(
        SourceConfig(path, prompt_timesteps=2, held_out_episodes=1) for path in (tmp_path / "push", run / "data")
    )
    folder = tmp_path / "run"
    prepare(folder, TrainConfig(model=agent.meta.model, sources=sources, length=128, batch_size=2, steps=1))
    policy = Policy(agent, 2, folder, temperature=0.0)
    opened, look = [], policy_file.open_demonstrations
    monkeypatch.setattr(policy_file, "open_demonstrations", lambda *a, **k: opened.append(1) or look(*a, **k))
    assert len(policy.prompt(OpenRequest("arm/push", "arm/reach", None, 0))) == 5
    for _ in range(3):
        with pytest.raises(RequestError, match="no demonstration of 'arm/push'; send one"):
            policy.prompt(OpenRequest("arm/push", "arm/push", None, 0))
    assert len(opened) == 2, "every request opens all stores"
    with StoreWriter(
        tmp_path / "push", "arm/push", agent.meta.sources["arm/push"].spec, {"task": "arm/push"}
    ) as writer:
        for seed in range(2):
            leaves = demonstrate(seed)
            about = {"episode_id": str(seed), "success": True}
            writer.write(Episode(leaves["observations"], leaves["actions"], np.zeros(5, np.float32), metadata=about))
    # It came back, and is found when it is looked for again.
    monkeypatch.setattr(policy_file, "LOOK_AGAIN", 0.0)
    assert len(policy.prompt(OpenRequest("arm/push", "arm/push", None, 0))) == 5


def test_what_fails_after_the_rows_have_changed_is_no_refusal(run, observe, monkeypatch):
    policy, rng, calls = Policy(Agent.from_checkpoint(run), 2, run), np.random.default_rng(0), []
    sessions = [policy.open(OpenRequest("arm/reach", None, None, 0), None) for _ in range(2)]

    def fails(*arguments):
        calls.append(1)
        raise ModelError("a bug")

    monkeypatch.setattr(sampler, "extend_and_act", fails)
    # A refusal would be answered with the error, and each session tried alone, its observation appended once more.
    with pytest.raises(RuntimeError, match="a bug"):
        policy.act([Step(session, observe(rng), None) for session in sessions])
    assert len(calls) == 1
