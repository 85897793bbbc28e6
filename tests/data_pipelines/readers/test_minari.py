"""Minari data sets, written by Minari from a real environment and from buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato.data_pipelines.environments.gymnasium_environment import GymnasiumEnvironment
from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.minari import MinariReader
from gato.tokenizers.spec import LeafSpec

minari = pytest.importorskip("minari")
gym = pytest.importorskip("gymnasium")
pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_a_real_environment(home, imported, data_format):
    env = minari.DataCollector(gym.make("CartPole-v1"), data_format=data_format)
    played = []
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        episode: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
        done = False
        while not done:
            action = env.action_space.sample()
            episode["observations"].append(observation)
            episode["actions"].append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            episode["rewards"].append(reward)
            done = terminated or truncated
        played.append(episode)
    env.create_dataset("cartpole/random-v0", algorithm_name="random")
    store = imported(home / "cartpole" / "random-v0")
    assert store.metadata["import"]["format"] == "minari"
    assert store.group_names == [("", "random")]
    assert store.spec.observations["observation"] == LeafSpec("continuous", (4,))  # its range is declared unbounded
    assert store.spec.actions == {"action": LeafSpec("discrete", values=2)}
    for number, episode in enumerate(played):
        read = store.episode(number)
        np.testing.assert_array_equal(read.observations["observation"], np.stack(episode["observations"]))
        assert read.actions["action"].tolist() == episode["actions"]
        assert read.rewards.tolist() == episode["rewards"]
        assert read.terminated


def nested(steps: int, extra: int = 1) -> Any:
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(steps)
    pixels = np.repeat(rng.integers(256, size=(steps + extra, 1, 1, 3), dtype=np.uint8), 32 * 48, axis=1)
    return EpisodeBuffer(
        id=None,
        observations={
            "camera": list(pixels.reshape(-1, 32, 48, 3)),
            "arm": {"joints": list(rng.uniform(-1, 1, (steps + extra, 2)).astype(np.float32))},
            "order": [f"move {t}" for t in range(steps + extra)],
        },
        actions=(list(rng.integers(3, size=steps)), list(rng.uniform(-2, 2, (steps, 2)).astype(np.float32))),
        rewards=list(rng.random(steps)),
        terminations=[False] * (steps - 1) + [True],
        truncations=[False] * steps,
    )


def create(name: str, buffers: list[Any], data_format: str = "hdf5") -> None:
    minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=gym.spaces.Dict(
            {
                "camera": gym.spaces.Box(0, 255, (32, 48, 3), np.uint8),
                "arm": gym.spaces.Dict({"joints": gym.spaces.Box(-1, 1, (2,), np.float32)}),
                "order": gym.spaces.Text(20),
            }
        ),
        action_space=gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-2, 2, (2,), np.float32))),
        data_format=data_format,
    )


def test_nested_spaces_pictures_and_text(home, imported):
    create("lab/nested-v0", [nested(5), nested(7)])
    store = imported(home / "lab" / "nested-v0")
    assert store.spec.observations == {
        "arm.joints": LeafSpec("continuous", (2,), low=-1.0, high=1.0),
        "camera": LeafSpec("image", (32, 48, 3)),
        "order": LeafSpec("text"),
    }
    assert store.spec.actions == {
        "0": LeafSpec("discrete", values=3),
        "1": LeafSpec("continuous", (2,), low=-2.0, high=2.0),
    }
    assert store.lengths.tolist() == [5, 7]
    read, written = store.episode(1), nested(7)
    assert read.observations["order"] == [f"move {t}" for t in range(7)]
    np.testing.assert_array_equal(read.observations["arm.joints"], np.stack(written.observations["arm"]["joints"][:7]))
    difference = read.observations["camera"].astype(int) - np.stack(written.observations["camera"][:7])
    assert np.abs(difference).mean() < 4  # Minari wrote JPEG


class Shop(gym.Env):
    """Every number of it begins elsewhere than at 0; remembers what was done."""

    observation_space = gym.spaces.Dict({"floor": gym.spaces.Discrete(4, start=-1), "bags": gym.spaces.Discrete(3)})
    action_space = gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done: list[int] = []
        return {"floor": -1, "bags": 0}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.done.append(int(action))
        time = len(self.done)
        return {"floor": time - 1, "bags": time % 3}, 0.0, time == 3, False, {}


def test_values_count_from_0_as_in_the_environment(home, imported):
    """What is learned from a data set is done in the environment that it came from."""
    gym.register("Shop-v0", f"{__name__}:{Shop.__name__}")  # Minari writes it down
    try:
        recorder = minari.DataCollector(gym.make("Shop-v0"))
        recorder.reset(seed=0)
        for action in (7, 5, 6):
            recorder.step(np.int64(action))
        recorder.create_dataset("lab/shop-v0")
        store, environment = imported(home / "lab" / "shop-v0"), GymnasiumEnvironment("Shop-v0", mujoco=True)
        assert store.spec == environment.spec
        episode, seen = store.episode(0), [environment.reset(0)]
        for action in episode.actions["action"]:
            seen.append(environment.step({"action": action})[0])
        assert environment.simulator.unwrapped.done == [7, 5, 6]
        for path, values in episode.observations.items():
            assert values.tolist() == [int(observation[path]) for observation in seen[:-1]]
    finally:
        del gym.registry["Shop-v0"]


def test_numbers_of_several_starts_and_numbers_that_are_quantities(home, imported):
    from minari.data_collector import EpisodeBuffer

    buffer = EpisodeBuffer(
        id=None,
        observations=[np.array([2, -1]), np.array([3, 1]), np.array([2, 0])],
        actions=[5, 6],
        rewards=[0.0] * 2,
        terminations=[False, True],
        truncations=[False] * 2,
    )
    minari.create_dataset_from_buffers(
        "lab/many-v0",
        [buffer],
        observation_space=gym.spaces.MultiDiscrete([2, 3], start=[2, -1]),
        action_space=gym.spaces.Discrete(2, start=5),
    )
    data = home / "lab" / "many-v0"
    store = imported(data)
    assert store.spec.observations == {"observation": LeafSpec("discrete", (2,), values=3)}
    assert store.episode(0).observations["observation"].tolist() == [[0, 0], [1, 2]]
    assert store.episode(0).actions["action"].tolist() == [0, 1]
    quantities = {"actions.action": LeafSpec("continuous", low=0.0, high=10.0)}
    (episode,) = MinariReader(data, quantities).read(0)
    assert episode.actions["action"].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("shape", [(40, 48, 1), (40, 48, 3)])
def test_pictures_that_are_no_jpeg(home, imported, data_format, shape):
    """Minari can encode none of one channel (H, W, 1); kept as arrays, pictures come back exactly."""
    from minari.data_collector import EpisodeBuffer

    frames = np.random.default_rng(0).integers(256, size=(5, *shape), dtype=np.uint8)
    buffer = EpisodeBuffer(
        id=None,
        observations=list(frames),
        actions=[0, 1, 2, 0],
        rewards=[0.0] * 4,
        terminations=[False] * 4,
        truncations=[False] * 3 + [True],
    )
    minari.create_dataset_from_buffers(
        "lab/grey-v0",
        [buffer],
        observation_space=gym.spaces.Box(0, 255, shape, np.uint8),
        action_space=gym.spaces.Discrete(3),
        data_format=data_format,
        jpeg_encoding=False,
    )
    store = imported(home / "lab" / "grey-v0")
    assert store.spec.observations == {"observation": LeafSpec("image", shape)}
    np.testing.assert_array_equal(store.episode(0).observations["observation"], frames[:4])


def test_what_minari_does_not_check_is_checked(home, imported):
    create("lab/short-v0", [nested(5), nested(6, extra=0)])
    with pytest.raises(SourceError, match=r"episode 1: observations\.\S+: 6 values for 6 rewards; Minari has 7"):
        imported(home / "lab" / "short-v0")
    bad = nested(5)
    bad.actions[1][2][:] = 3.0
    create("lab/range-v0", [nested(4), bad])
    with pytest.raises(SourceError, match=r"actions\.1: step 2: 3 outside the range -2\.0\.\.2\.0"):
        imported(home / "lab" / "range-v0")
    assert imported(home / "lab" / "range-v0", dest="rest", bad="skip").lengths.tolist() == [4]


def test_truncated_file(home, imported):
    create("lab/nested-v0", [nested(5), nested(7)])
    file = home / "lab" / "nested-v0" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="cannot be read"):
        imported(home / "lab" / "nested-v0")
