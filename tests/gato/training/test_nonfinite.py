"""Losses that are not finite, from data that really make them so: said where, skipped or not, never saved."""

import dataclasses

import jax
import numpy as np
import pytest
from processes import start_training

from gato.data_pipelines.rows import EPISODE, PROMPT_EPISODE, SOURCE
from gato.recipes.gato import GATO
from gato.tokenizers.errors import GatoError
from gato.training import setup, trainer
from gato.training.checkpoint import load_for_inference, saved_steps
from gato.training.metrics import read_metrics
from gato.training.trainer import DivergedError, train

ROOMS = 1  # among the sources of `train_config`


@pytest.fixture(scope="module")
def spoiled(train_config):
    """An episode of `rooms` and the steps of the run that have it in their batches: some, but not the first two."""
    rows, size = setup.build(train_config).loader.rows, train_config.batch_size
    tables = [rows.segments(step * size, (step + 1) * size)[0] for step in range(train_config.steps)]
    for episode in range(30):
        steps = [
            step
            for step, table in enumerate(tables, 1)
            if ((table[:, [EPISODE, PROMPT_EPISODE]] == episode).any(axis=1) & (table[:, SOURCE] == ROOMS)).any()
        ]
        if len(steps) >= 2 and steps[0] > 2 and steps[-1] < train_config.steps:
            return episode, steps
    raise AssertionError("no episode is in such batches")


@pytest.fixture
def heavy(monkeypatch, spoiled):
    """Gives that episode a loss weight that float32 can hold and a loss that it cannot."""

    def weigh(episode):
        mine = "grid" in episode.observations and episode.metadata["episode_id"] == str(spoiled[0])
        return 3e38 if mine else 1.0

    recipe = dataclasses.replace(GATO, episode_weight=weigh)
    monkeypatch.setattr(setup, "get_recipe", lambda name: recipe)


def test_a_step_that_is_not_finite_changes_only_the_count(train_config, heavy, spoiled):
    built = setup.build(train_config)
    state = built.initial_state()
    before = jax.tree.map(np.array, state)
    state, metrics = built.train_step(state, built.put(built.loader.batch(spoiled[1][0] - 1)))
    assert not metrics.finite
    jax.tree.map(np.testing.assert_array_equal, state, before.replace(step=np.int32(1)))
    state, metrics = built.train_step(state, built.put(built.loader.batch(0)))
    assert metrics.finite
    assert any(np.any(np.asarray(a) != b) for a, b in zip(*map(jax.tree.leaves, (state.params, before.params))))


def test_stop_names_the_episode_and_skip_goes_on_from_there(train_config, heavy, spoiled, tmp_path, capfd):
    episode, steps = spoiled
    config = train_config.replace(checkpoint_every=2)
    where = rf"step {steps[0]}: the loss is \S+ in rows of the source rooms: row \d of the batch \(\d+ of the run\): "
    with pytest.raises(DivergedError, match=rf"{where}.*episode {episode}\b.* on_nonfinite=\"skip\""):
        train(config, tmp_path / "stopped")
    assert saved_steps(tmp_path / "stopped") == list(range(2, steps[0], 2))
    capfd.readouterr()

    skip = config.replace(on_nonfinite="skip")
    assert train(skip, tmp_path / "whole").step == config.steps
    said = [line for line in capfd.readouterr().err.splitlines() if "skipped: " in line]
    assert [int(line.split()[1]) for line in said] == steps
    assert all(f"episode {episode}" in line for line in said)
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["skipped_steps"]] == steps
    assert [line["step"] for line in lines if "loss" not in line] == steps
    params, _ = load_for_inference(tmp_path / "whole")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))

    assert train(skip, tmp_path / "stopped").step == config.steps
    jax.tree.map(np.testing.assert_array_equal, load_for_inference(tmp_path / "stopped")[0], params)


def test_too_many_in_a_row_stop_the_run(train_config, monkeypatch, tmp_path):
    recipe = dataclasses.replace(GATO, episode_weight=lambda episode: 3e38)
    monkeypatch.setattr(setup, "get_recipe", lambda name: recipe)
    monkeypatch.setattr(trainer, "MOST_SKIPPED", 2)
    with pytest.raises(DivergedError, match=r"step 3: after 2 skipped steps in a row, .* in every source of the batch"):
        train(train_config.replace(on_nonfinite="skip"), tmp_path)
    assert saved_steps(tmp_path) == []


# The fixture `heavy` in another process, which tells on its own what it found.
HEAVY = """
import dataclasses, functools
import jax
from gato.recipes.gato import GATO
from gato.training import nonfinite, setup, trainer
def weigh(episode):
    mine = "grid" in episode.observations and episode.metadata["episode_id"] == "{episode}"
    return 3e38 if mine else 1.0
setup.get_recipe = lambda name: dataclasses.replace(GATO, episode_weight=weigh)
describe = nonfinite.describe
def told(setup, step, metrics, params):
    text = describe(setup, step, metrics, params)
    print("found:", step, text, flush=True)
    return text
nonfinite.describe = told
trainer.train = functools.partial(trainer.train, profile_steps={profile})
"""


@pytest.mark.slow
def test_two_processes_skip_the_same_step_also_where_a_trace_ends(train_config, spoiled, tmp_path):
    """At the end of a trace the devices are waited for, and what is not finite is looked into then: by both, or what
    one computes for that would meet the next step of the other, and neither would ever end."""
    episode, steps = spoiled
    config = train_config.replace(on_nonfinite="skip")
    before, run = HEAVY.format(episode=episode, profile=(steps[0] - 1, steps[0])), tmp_path / "run"
    with start_training(config, run, tmp_path / "logs", count=2, before=before) as pair:
        assert pair.wait() == [0, 0], pair.everything()
    found = [[line for line in pair.output(n).splitlines() if line.startswith("found: ")] for n in (0, 1)]
    assert found[0] == found[1]
    assert [int(line.split()[1]) for line in found[0]] == steps
    assert all("in rows of the source rooms: row" in line and f"episode {episode}" in line for line in found[0])
    assert "profile: open" in pair.output(0)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["skipped_steps"]] == steps
    params, _ = load_for_inference(run)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(train_config, spoiled, tmp_path):
    episode, steps = spoiled
    before, run = HEAVY.format(episode=episode, profile=None), tmp_path / "run"
    config = train_config.replace(checkpoint_every=2)
    with start_training(config, run, tmp_path / "logs", count=2, before=before) as pair:
        assert pair.wait() == [2, 2], pair.everything()
    for number in (0, 1):
        assert f"gato: step {steps[0]}: the loss is " in pair.output(number)
        assert f"episode {episode} of rooms" in pair.output(number)
    assert saved_steps(run) == list(range(2, steps[0], 2))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_recipe_that_weighs_an_episode_so_is_refused_before_the_first_step(
    train_config, monkeypatch, tmp_path, weight
):
    recipe = dataclasses.replace(GATO, episode_weight=lambda episode: weight)
    monkeypatch.setattr(setup, "get_recipe", lambda name: recipe)
    with pytest.raises(GatoError, match=rf"the recipe's episode_weight of episode \d+ is {weight}"):
        train(train_config, tmp_path)
