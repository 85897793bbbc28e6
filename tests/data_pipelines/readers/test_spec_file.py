"""`spec.json` beside plain arrays: what is not understood is refused with the file and the field."""

from __future__ import annotations

import json

import pytest

from gato.data_pipelines.errors import SourceError
from gato.data_pipelines.readers.spec_file import read_spec
from gato.tokenizers.spec import LeafSpec

LEAF = {"modality": "continuous", "shape": [2], "low": -3, "high": [1.5, 2]}


def test_what_it_says(tmp_path):
    assert read_spec(tmp_path / "spec.json") == ({}, {})
    said = {"observations": {"body.x": {"modality": "text"}}, "actions": {"action": LEAF}, "metadata": {"task": "a/b"}}
    (tmp_path / "spec.json").write_text(json.dumps(said))
    leaves = {
        "observations.body.x": LeafSpec("text"),
        "actions.action": LeafSpec("continuous", (2,), low=-3, high=(1.5, 2.0)),
    }
    assert read_spec(tmp_path / "spec.json") == (leaves, {"task": "a/b"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "is no JSON: "),
        ("[1]", r"\[1\] instead of an object"),
        ({"action": {"action": LEAF}}, "unknown key 'action'; did you mean 'actions'"),
        ({"actions": [LEAF]}, "actions: .* instead of an object"),
        ({"actions": LEAF}, 'actions.modality: "continuous" instead of an object'),
        ({"actions": {"action": {"shape": [2]}}}, "actions.action: has no modality: text, image, discrete or cont"),
        ({"actions": {"action": {**LEAF, "lo": 1}}}, "actions.action: unknown key 'lo'; did you mean 'low'"),
        ({"actions": {"action": {**LEAF, "shape": 2}}}, "actions.action: shape is 2, not of type list"),
        ({"actions": {"action": {**LEAF, "shape": ["x"]}}}, "actions.action: invalid literal"),
        ({"actions": {"action": {**LEAF, "low": "-3"}}}, "actions.action: low is '-3', not of type int or number or"),
        ({"actions": {"action": {**LEAF, "low": 4}}}, "actions.action: low must be below high"),
        ({"observations": {"x": {"modality": "discrete", "values": True}}}, "observations.x: values is True, not of"),
        ({"metadata": "mine"}, 'metadata: "mine" instead of an object'),
    ],
)
def test_what_is_not_understood_is_one_line(tmp_path, said, message):
    (tmp_path / "spec.json").write_text(said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(SourceError, match=rf"spec\.json: {message}") as error:
        read_spec(tmp_path / "spec.json")
    assert "\n" not in str(error.value)
