"""A step is measured on real batches, after compilation, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.data_pipelines.mixture import SourceConfig
from gato.data_pipelines.store_writer import StoreWriter
from gato.launch import calibrate
from gato.model.presets import preset
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import TrainConfig
from gato.training.optimizer import OptimizerConfig


def test_seconds_per_step_leaves_the_compilation_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EpisodeSpec.of({"x": LeafSpec("continuous", (2,))}, LeafSpec("discrete", values=3))
    with StoreWriter(tmp_path / "store", "toy", spec, {}) as writer:
        for number in range(4):
            observations, actions = {"x": np.zeros((9, 2), np.float32)}, {"action": np.zeros(9, np.int32)}
            writer.write(Episode(observations, actions, np.zeros(9, np.float32), metadata={"episode_id": number}))
    config = TrainConfig(
        model=preset("tiny", Vocabulary(TextTokenizer.default().size)),
        sources=(SourceConfig(tmp_path / "store", expert_filter=None),),
        batch_size=2,
        length=32,
        steps=100,
        optimizer=OptimizerConfig(warmup_steps=2, decay_steps=None),
    )
    steps: list[float] = []
    clock, build = [0.0], calibrate.build

    def timed(config: TrainConfig) -> object:
        """Every step takes 2 s by the clock, the first one, which compiles, 60 s."""
        setup = build(config)
        real = setup.train_step

        def step(*arguments: object) -> object:
            clock[0] += 2.0 if steps else 60.0
            result = real(*arguments)  # type: ignore[arg-type]
            steps.append(float(result[1].sums.mean()))
            return result

        setup.train_step = step  # type: ignore[assignment]
        return setup

    monkeypatch.setattr(calibrate, "build", timed)
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: clock[0])
    assert calibrate.seconds_per_step(config, seconds=5.0) == 2.0
    assert len(steps) == calibrate.WARM_STEPS + 3
    assert np.isfinite(steps).all()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
