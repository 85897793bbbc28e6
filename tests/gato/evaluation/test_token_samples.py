"""The sequences that the report draws are weighed as the training weighs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from gato.evaluation.token_samples import write_token_samples


def test_the_weights_are_those_of_the_source(untrained_run: Callable[..., Path], tmp_path: Path) -> None:
    run = untrained_run(tmp_path, ["babyai/OpenDoor"])
    path = run / "config.json"

    def weights() -> dict[str, set[float]]:
        (sequence,) = json.loads(write_token_samples(run).read_text())
        kinds: dict[str, set[float]] = {}
        for token in sequence["tokens"]:
            kinds.setdefault(token["kind"], set()).add(token["weight"])
        return kinds

    before = weights()
    assert before["action"] == before["text"] == {1.0}
    config = json.loads(path.read_text())
    config["sources"][0] |= {"loss_kinds": ["action"], "loss_weight": 0.5}
    path.write_text(json.dumps(config))
    assert weights() == {**before, "action": {0.5}, "text": {0.0}}
