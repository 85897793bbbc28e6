"""Noise, recording and cutting, on a corridor whose every step is known."""

import numpy as np
import pytest

from gato.data_pipelines.environments.base import COLLECTION_SEED, EVALUATION_SEED, ExpertError, Task
from gato.data_pipelines.episode import EpisodeSpec, LeafSpec, check_episode
from gato.data_pipelines.rollout import demonstration, perturb, random_policy, rollout
from gato.tokenizers.errors import SpecError

SPEC = EpisodeSpec.of(
    {"place": LeafSpec("continuous", (1,)), "sign": LeafSpec("text")},
    {"jump": LeafSpec("discrete", values=3), "push": LeafSpec("continuous", (2,), low=(-1.0, 0.0), high=(1.0, 10.0))},
)


class Corridor:
    """Succeeds while the place is 5 or more; ends at ``length`` steps. A step moves one place, whatever is pushed."""

    spec = SPEC

    def __init__(self, length=20):
        self.length, self.executed = length, []

    def reset(self, seed):
        self.seed, self.place, self.steps = seed, 0, 0
        return self._observation()

    def step(self, action):
        self.executed.append(action)
        self.place += 1
        self.steps += 1
        info = {"success": self.place >= 5}
        return self._observation(), float(self.place), False, self.steps >= self.length, info

    def close(self):
        pass

    def _observation(self):
        return {"place": np.array([self.place], np.float32), "sign": f"place {self.place}"}


CLEAN = {"jump": np.int32(1), "push": np.array([0.5, 5.0], np.float32)}


def _task(expert=lambda environment, rng: lambda observation: CLEAN, **options):
    options = {"metric": "success", "max_steps": 20, "noise": (0.0, 0.3), **options}
    return Task("corridor/walk", make=Corridor, expert=expert, **options)


def test_noise_is_executed_and_the_clean_answer_is_stored():
    environment = Corridor()
    episode = rollout(environment, lambda _: CLEAN, environment.reset(0), noise=0.3, rng=np.random.default_rng(0))
    check_episode(episode, SPEC, "corridor")
    assert (episode.actions["jump"] == 1).all()
    assert (episode.actions["push"] == CLEAN["push"]).all()
    executed = np.stack([action["push"] for action in environment.executed])
    assert (executed != CLEAN["push"]).all()
    assert list(episode.observations["sign"][:2]) == ["place 0", "place 1"]
    np.testing.assert_array_equal(episode.rewards, np.arange(1, 21))


def test_perturbed_actions_are_legal_and_as_noisy_as_asked():
    rng = np.random.default_rng(0)
    draws = [perturb(CLEAN, SPEC, 0.1, rng) for _ in range(4000)]
    pushes = np.stack([draw["push"] for draw in draws])
    # Half the ranges are 1 and 5.
    np.testing.assert_allclose((pushes - CLEAN["push"]).std(axis=0), [0.1, 0.5], rtol=0.05)
    assert np.mean([draw["jump"] != 1 for draw in draws]) == pytest.approx(0.1 * 2 / 3, abs=0.015)
    wild = np.stack([perturb(CLEAN, SPEC, 5.0, rng)["push"] for _ in range(200)])
    assert wild.min(axis=0).tolist() == [-1, 0]
    assert wild.max(axis=0).tolist() == [1, 10]
    assert perturb(CLEAN, SPEC, 0.0, rng) is CLEAN


@pytest.mark.parametrize(("keep", "steps"), [(0, 5), (3, 8), (None, 20)])
def test_an_episode_is_cut_after_success(keep, steps):
    environment = Corridor()
    episode = rollout(environment, lambda _: CLEAN, environment.reset(0), steps_after_success=keep)
    assert len(episode) == steps
    assert episode.truncated
    assert episode.metadata["success"] is True


def test_random_actions_cover_the_declared_range():
    policy = random_policy(SPEC, np.random.default_rng(0))
    actions = [policy({}) for _ in range(500)]
    assert {int(action["jump"]) for action in actions} == {0, 1, 2}
    pushes = np.stack([action["push"] for action in actions])
    np.testing.assert_allclose(pushes.mean(axis=0), [0, 5], atol=0.5)
    assert (pushes >= [-1, 0]).all()
    assert (pushes <= [1, 10]).all()
    with pytest.raises(SpecError, match="action 'free': declare low and high"):
        random_policy(EpisodeSpec.of({}, {"free": LeafSpec("continuous", (1,))}), np.random.default_rng(0))({})


def test_demonstrations_differ_by_index_and_seed_and_stay_below_the_evaluation_seeds():
    task, environment = _task(), Corridor()
    seeds = set()
    for seed in range(8):
        for index in range(250):
            episode = demonstration(task, environment, index, seed)
            seeds.add(episode.metadata["reset_seed"])
            assert episode.metadata["noise"] == (0.0, 0.3)[index % 2]
    assert len(seeds) == 8 * 250
    assert min(seeds) >= COLLECTION_SEED
    assert max(seeds) < EVALUATION_SEED


def test_a_failed_demonstration_is_tried_again_elsewhere():
    def expert(environment, rng):
        if environment.seed < 400_000:
            raise ExpertError("too low")
        return lambda observation: CLEAN

    episode = demonstration(_task(expert), Corridor(), 0, seed=0)
    assert episode.metadata["attempt"] == 1
    assert episode.metadata["reset_seed"] >= 400_000
    with pytest.raises(
        ExpertError, match="corridor/walk: the expert failed 20 times in a row at episode 3: it did not"
    ):
        demonstration(
            Task("corridor/walk", lambda: None, lambda *_: lambda _: CLEAN, "success", 3), Corridor(length=3), 3, seed=0
        )


class Changing(Corridor):
    """What `Corridor` observes, until step 3 brings another observation."""

    def __init__(self, later):
        super().__init__()
        self.later = later

    def _observation(self):
        return self.later if self.steps == 3 else super()._observation()


PLACE = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"place": PLACE}, "observation: leaf 'sign' is missing; it has place"),
        ({"place": np.zeros(2, np.float32), "sign": "x"}, r"leaf 'place' has shape \(2,\), the spec says \(1,\)"),
        ({"place": PLACE, "sign": 7}, "leaf 'sign' is int, the spec says text"),
    ],
)
def test_an_observation_that_does_not_match_is_named(later, message):
    with pytest.raises(SpecError, match=f"corridor/walk: episode 2: step 3: .*{message}"):
        demonstration(_task(), Changing(later), 2, seed=0)


def test_an_action_that_does_not_match_is_named():
    task = _task(lambda environment, rng: lambda observation: {"jump": np.int32(1)})
    with pytest.raises(
        SpecError, match="corridor/walk: episode 0: step 0: action: leaf 'push' is missing; it has jump"
    ):
        demonstration(task, Corridor(), 0, seed=0)
