"""Fixtures of the training tests: random packed batches with two segments and padding in each row."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gato.data_pipelines.episode import Episode, EpisodeSpec, LeafSpec
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.model.presets import preset
from gato.tokenizers.layout import KINDS
from gato.tokenizers.text import train as train_text_model
from gato.tokenizers.token_sequence import ACTION_POSITION, NO_POSITION
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import TrainConfig
from gato.training.optimizer import OptimizerConfig
from gato.training.trainer import train

sys.path.insert(0, str(Path(__file__).parent))  # `processes`: importlib mode does not put the folder on the path

VOCABULARY = Vocabulary(2048)
SOURCES = 3
TARGETS = ("target_index", "target_ids", "target_weight", "target_kind", "target_source")
STEP = ("patch", "patch", "continuous", "text", "separator", "action", "action")


def random_batch(rows: int = 2, length: int = 64, seed: int = 0, padded_targets: int = 16) -> dict[str, np.ndarray]:
    """Timesteps of two patches, a continuous value, a text token, a separator and two actions; one group of rows."""
    rng = np.random.default_rng(seed)
    kinds = np.array([KINDS.index(STEP[token % len(STEP)]) for token in range(length)], np.int8)
    kinds_BL = np.tile(kinds, (rows, 1))
    used = length - 5
    split = used // 2 // len(STEP) * len(STEP)
    segments = np.where(np.arange(length) < split, 1, np.where(np.arange(length) < used, 2, 0)).astype(np.int32)
    positions = np.where(segments == 1, np.arange(length), np.arange(length) - split).astype(np.int32)
    positions[used:] = 0
    is_patch = (kinds_BL == KINDS.index("patch")) & (segments > 0)
    low, high = {}, {}
    ranges = {"text": (0, 2048), "continuous": (2048, 3072), "action": (2048, 3072), "separator": (3072, 3073)}
    for name, (lo, hi) in {**ranges, "patch": (3073, 3074)}.items():
        low[KINDS.index(name)], high[KINDS.index(name)] = lo, hi
    lo_BL, hi_BL = np.vectorize(low.get)(kinds_BL), np.vectorize(high.get)(kinds_BL)
    ids = np.where(segments > 0, rng.integers(lo_BL, hi_BL), VOCABULARY.padding).astype(np.int32)
    learned = np.isin(kinds_BL, [KINDS.index("text"), KINDS.index("action")]) & (segments > 0)
    local = np.where(kinds_BL == KINDS.index("action"), ACTION_POSITION, np.arange(length) % len(STEP))
    patch_index = np.full((rows, length), -1, np.int32)
    patch_index[is_patch] = rng.integers(0, 4, is_patch.sum())
    source = np.where(segments > 0, np.arange(rows)[:, None] % SOURCES, -1).astype(np.int16)
    batch = {
        "ids": ids,
        "loss_weight": np.where(learned, rng.uniform(0.5, 1.5, (rows, length)), 0).astype(np.float32),
        "local_position": np.where(kinds_BL == KINDS.index("separator"), NO_POSITION, local).astype(np.int16),
        "segment_ids": np.tile(segments, (rows, 1)),
        "positions": np.tile(positions, (rows, 1)),
        "kinds": kinds_BL,
        "source": source,
        "patch_index": patch_index,
        "patch_intervals": np.tile(np.array([0, 64, 64, 128], np.int16), (rows, length, 1)),
        "patches": rng.integers(0, 256, (1, 4, 16, 16, 3), dtype=np.uint8),
    }
    return batch | {name: array[None] for name, array in target_index(batch, padded_targets).items()}


def target_index(batch: dict[str, np.ndarray], padding: int) -> dict[str, np.ndarray]:
    """The sparse head's index of a batch, written without looking at the loader's."""
    entries = []
    rows, length = batch["ids"].shape
    for b in range(rows):
        for i in range(length - 1):
            same = batch["segment_ids"][b, i] == batch["segment_ids"][b, i + 1] > 0
            if same and batch["loss_weight"][b, i + 1] > 0:
                target = (b, i + 1)
                entries.append((b * length + i, *(batch[k][target] for k in ("ids", "loss_weight", "kinds", "source"))))
    entries += [(0, 0, 0.0, 0, 0)] * padding
    columns = list(zip(*entries, strict=True))
    dtypes = (np.int32, np.int32, np.float32, np.int8, np.int16)
    return {name: np.array(column, dtype) for name, column, dtype in zip(TARGETS, columns, dtypes, strict=True)}


def in_groups(batch: dict[str, np.ndarray], groups: int, padding: int = 3) -> dict[str, np.ndarray]:
    """A `random_batch` as so many groups of rows, each with its own list of patches (in another order) and targets."""
    rows = {name: array for name, array in batch.items() if name != "patches" and not name.startswith("target_")}
    size, parts = len(batch["ids"]) // groups, []
    for group in range(groups):
        part = {name: array[group * size : (group + 1) * size] for name, array in rows.items()}
        order = np.roll(np.arange(batch["patches"].shape[1]), group)
        index = part["patch_index"]
        part["patch_index"] = np.where(index >= 0, np.argsort(order)[index], -1).astype(np.int32)
        parts.append(part | {"patches": batch["patches"][0, order]} | target_index(part, 0))
    most = max(len(part["target_index"]) for part in parts) + padding
    for part in parts:
        part |= target_index(part, most - len(part["target_index"]))
    lists = {name: np.stack([part[name] for part in parts]) for name in ("patches", *TARGETS)}
    return {name: np.concatenate([part[name] for part in parts]) for name in rows} | lists


@pytest.fixture
def group_batch():
    """`in_groups` as a function."""
    return in_groups


@pytest.fixture
def make_batch():
    """`random_batch` as a function."""
    return random_batch


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(pytestconfig: pytest.Config) -> None:
    """What these tests compile is kept beside pytest's own cache: the next run is several times faster."""
    jax.config.update("jax_compilation_cache_dir", str(pytestconfig.cache.mkdir("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Small stores, and a configuration that trains on them in seconds.

LAMPS = EpisodeSpec.of(
    {"dial": LeafSpec("continuous", (3,), -1.0, 1.0), "lamp": LeafSpec("discrete", (), values=4)},
    {"knob": LeafSpec("continuous", (2,), -1.0, 1.0)},
)
ROOMS = EpisodeSpec.of(
    {"grid": LeafSpec("discrete", (4,), values=8), "mission": LeafSpec("text")}, LeafSpec("discrete", (), values=8)
)
TEXTS = EpisodeSpec.of({"text": LeafSpec("text")}, {}, kind="document")


def _lamps(rng: np.random.Generator, steps: int) -> Episode:
    dial = rng.uniform(-1, 1, (steps, 3))
    lamp = rng.integers(0, 4, steps)
    return Episode({"dial": dial, "lamp": lamp}, {"knob": -dial[:, :2]}, np.ones(steps, np.float32))


def _rooms(rng: np.random.Generator, steps: int) -> Episode:
    grid = rng.integers(0, 8, (steps, 4))
    cell = int(rng.integers(0, 4))
    mission = [f"go to cell {cell}"] * steps
    return Episode({"grid": grid, "mission": mission}, {"action": grid[:, cell]}, np.ones(steps, np.float32))


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three sources (two kinds of control, text) and a SentencePiece model of 2,048 pieces, by name."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    source = Path(argparse.__file__).read_text()
    paragraphs = [text for text in source.split("\n\n") if 40 < len(text) < 600]
    episodes = {
        "lamps": (LAMPS, [_lamps(rng, int(rng.integers(5, 20))) for _ in range(30)]),
        "rooms": (ROOMS, [_rooms(rng, int(rng.integers(5, 20))) for _ in range(30)]),
        "texts": (TEXTS, [Episode({"text": [text]}, {}, np.zeros(1, np.float32)) for text in paragraphs[:60]]),
    }
    paths = {}
    for name, (spec, made) in episodes.items():
        paths[name] = folder / name
        task = "" if spec.kind == "document" else f"synthetic/{name}"
        with StoreWriter(paths[name], name, spec, {"task": task, "agent": "test"}) as writer:
            for number, episode in enumerate(made):
                episode.metadata["episode_id"] = str(number)
                writer.write(episode)
    paths["text_model"] = folder / "text.model"
    paths["text_model"].write_bytes(train_text_model([source], 2048))
    return paths


@pytest.fixture(scope="session")
def train_config(stores: dict[str, Path]) -> TrainConfig:
    """Eight steps of the tiny preset with dropped paths, a checkpoint at step 4 and at the end."""
    source = {"expert_filter": None, "held_out_episodes": 4}
    return TrainConfig(
        model=preset("tiny", vocabulary=VOCABULARY, stochastic_depth=0.1),
        sources=(
            SourceConfig(str(stores["lamps"]), weight=2, window_timesteps=4, prompt_timesteps=2, **source),
            SourceConfig(str(stores["rooms"]), **source),
            SourceConfig(str(stores["texts"]), **source),
        ),
        batch_size=4,
        length=96,
        steps=8,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2, decay_steps=None),
        text_model=str(stores["text_model"]),
        log_every=1,
        checkpoint_every=4,
    )


@pytest.fixture(scope="session")
def finished_run(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `train_config`, trained without interruption. Tests only read it."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    result = train(train_config.replace(validation_every=8, validation_batches=2), run_dir)
    assert result.exit_code == 0
    return run_dir


EXPERIMENT = """
from gato.launch.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    source = {{"expert_filter": None, "held_out_episodes": 4}}
    config.sources = [{{"path": path, **source}} for path in {stores}]
    config.text_model = {text_model!r}
    config.update({{"batch_size": 4, "length": 96, "steps": 4, "log_every": 1}})
    return config
"""


@pytest.fixture
def experiment(stores: dict[str, Path], tmp_path: Path) -> Path:
    """An experiment file: four steps on the small stores."""
    path = tmp_path / "experiment.py"
    names = [str(stores[name]) for name in ("lamps", "rooms", "texts")]
    path.write_text(EXPERIMENT.format(stores=names, text_model=str(stores["text_model"])))
    return path
