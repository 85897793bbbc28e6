"""The numbers of the golden files (made in float64 by an independent implementation), all of them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from gato.tokenizers import continuous, image
from gato.tokenizers.layout import KINDS, Layout
from gato.tokenizers.sequence import ACTION_POSITION, NO_POSITION, SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec, flatten
from gato.tokenizers.vocabulary import Vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CONTINUOUS = json.loads((GOLDEN / "continuous.json").read_text())
VOCABULARY = Vocabulary()


def _check(cases: list[dict[str, float]], leaf: LeafSpec, is_action: bool) -> None:
    x = np.array([case["x"] for case in cases], np.float64)
    companded = continuous.is_companded(leaf, is_action)
    bins = continuous.encode(x, leaf, companded, is_action)
    np.testing.assert_array_equal(bins + VOCABULARY.text_size, [case["token"] for case in cases])
    decoded = continuous.decode(bins, leaf, companded, is_action)
    np.testing.assert_allclose(decoded, [case["decoded"] for case in cases], rtol=1e-12, atol=1e-15)


def test_mu_law_observations() -> None:
    _check(CONTINUOUS["mu_law_observations"], LeafSpec("continuous"), is_action=False)


def test_plain_actions() -> None:
    _check(CONTINUOUS["plain_actions"], LeafSpec("continuous", low=-1, high=1), is_action=True)


@pytest.mark.parametrize("case", CONTINUOUS["scaled_actions"])
def test_scaled_actions(case: dict[str, float]) -> None:
    _check([case], LeafSpec("continuous", low=case["low"], high=case["high"]), is_action=True)


def test_patch_positions() -> None:
    sides = json.loads((GOLDEN / "patch_positions.json").read_text())["patch_position_intervals_by_patches_per_side"]
    for side, expected in sides.items():
        n = int(side)
        for intervals, columns in (
            (image.patch_intervals(16 * n, 16), slice(0, 2)),
            (image.patch_intervals(16, 16 * n), slice(2, 4)),
        ):
            start, stop = intervals[:, columns].T
            found = np.column_stack([start, stop, image.evaluation_table()[start, stop]])
            np.testing.assert_array_equal(found, [(e["start"], e["stop_exclusive"], e["eval"]) for e in expected])


def _leaves(tree: dict[str, Any]) -> Any:
    if "modality" not in tree:
        return {key: _leaves(value) for key, value in tree.items()}
    low, high = tree.get("range", (None, None))
    return LeafSpec(tree["modality"], tuple(tree.get("shape", ())), low=low, high=high, values=tree.get("n"))


def test_episode_sequence() -> None:
    golden = json.loads((GOLDEN / "episode_sequence.json").read_text())
    spec = EpisodeSpec.of(_leaves(golden["spec"]["observations"]), _leaves(golden["spec"]["actions"]))
    steps = [
        dict(flatten({k: v for k, v in step.items() if k not in ("image", "actions")})) for step in golden["steps"]
    ]
    observations: dict[str, Any] = {path: [step[path] for step in steps] for path in steps[0]}
    pixels = (7 * np.arange(32 * 48 * 3) % 256).astype(np.uint8).reshape(32, 48, 3)
    observations["image"] = np.stack([pixels, pixels])
    actions = {path: np.array([step["actions"][path] for step in golden["steps"]]) for path in spec.actions}

    tokens = SequenceTokenizer(VOCABULARY, None, Layout()).tokenize(observations, actions, spec)

    expected = golden["tokens"]
    positions = {None: NO_POSITION, "action": ACTION_POSITION}
    assert [KINDS[kind] for kind in tokens.kinds] == [token["kind"] for token in expected]
    ids = [VOCABULARY.padding if token["id"] is None else token["id"] for token in expected]
    np.testing.assert_array_equal(tokens.ids, ids)
    np.testing.assert_array_equal(tokens.loss_weight, [token["loss_weight"] for token in expected])
    np.testing.assert_array_equal(tokens.timestep, [token["timestep"] for token in expected])
    local = [positions.get(token["local_position"], token["local_position"]) for token in expected]
    np.testing.assert_array_equal(tokens.local_position, local)
    patches = tokens.patches[tokens.patch_index[tokens.patch_index >= 0]]
    np.testing.assert_array_equal(patches[:6, 0, 0], golden["patches_first_pixel_rgb"])
    means = (patches[:6].astype(np.float64) / 255 * 2 - 1).mean(axis=(1, 2, 3)) / 4
    np.testing.assert_allclose(means, golden["patch_normalised_mean"], atol=1e-12)
