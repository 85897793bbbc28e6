from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato.tokenizers import continuous
from gato.tokenizers.errors import SpecError, VocabularyError
from gato.tokenizers.layout import KINDS, Layout
from gato.tokenizers.sequence import ACTION_POSITION, NO_POSITION, SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.text import TextTokenizer
from gato.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary(extra=("unused",))
TOKENIZER = SequenceTokenizer(VOCABULARY, TextTokenizer.default(), Layout())
SPEC = EpisodeSpec.of(
    {
        "zoom": LeafSpec("discrete", values=5),
        "eye": LeafSpec("image", (20, 32, 1)),
        "arm": {"speed": LeafSpec("continuous", (2, 2)), "angle": LeafSpec("continuous", (3,), low=-1, high=1)},
        "arms": LeafSpec("discrete", (2,), values=9),
        "Mission": LeafSpec("text"),
    },
    {
        "grip": LeafSpec("discrete", values=3),
        "force": LeafSpec("continuous", (2,), low=(-2, 0), high=(2, 10)),
        "boost": LeafSpec("continuous", companded=True),
    },
)


def _episode(steps: int, seed: int = 0, missions: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    observations = {
        "Mission": missions or ["go to the red ball"] * steps,
        "arm.angle": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        "arm.speed": rng.standard_normal((steps, 2, 2)),
        "arms": rng.integers(0, 9, (steps, 2), np.uint8),
        "eye": rng.integers(0, 256, (steps, 20, 32, 1), np.uint8),
        "zoom": rng.integers(0, 5, steps),
    }
    actions = {
        "boost": rng.standard_normal(steps),
        "force": rng.uniform((-2, 0), (2, 10), (steps, 2)),
        "grip": rng.integers(0, 3, steps),
    }
    return observations, actions


def _kinds(tokens: Any) -> list[str]:
    return [KINDS[kind] for kind in tokens.kinds]


def test_a_timestep_is_in_lexicographic_order_of_nested_keys() -> None:
    observations, actions = _episode(1, missions=[np.array([7, 8])])
    tokens = TOKENIZER.tokenize(observations, actions, SPEC)
    # Mission < arm.angle < arm.speed < arms < eye < zoom: level by level, so "arm.*" stands before "arms".
    expected = ["text"] * 2 + ["continuous"] * 7 + ["discrete"] * 2 + ["patch"] * 4 + ["discrete"] + ["separator"]
    assert _kinds(tokens) == expected + ["action"] * 4
    assert tokens.ids[:2].tolist() == [7, 8]
    assert tokens.ids[9:11].tolist() == observations["arms"][0].tolist()
    assert (tokens.ids[11:15] == VOCABULARY.padding).all()
    assert tokens.ids[15] == observations["zoom"][0]
    assert tokens.local_position.tolist() == [*range(16), NO_POSITION, *[ACTION_POSITION] * 4]
    assert tokens.loss_weight.tolist() == [1, 1, *[0] * 15, 1, 1, 1, 1]
    assert tokens.ids[-1] == actions["grip"][0]  # boost, force, grip
    speed = continuous.encode(observations["arm.speed"][0], LeafSpec("continuous", (2, 2)), True).ravel()
    np.testing.assert_array_equal(tokens.ids[5:9] - 32000, speed)  # row-major
    assert len(tokens) == TOKENIZER.tokens_per_timestep(SPEC, text_tokens=2)


def test_a_spec_written_in_another_order_gives_the_same_tokens() -> None:
    observations, actions = _episode(2)
    backwards = EpisodeSpec(dict(reversed(SPEC.observations.items())), dict(reversed(SPEC.actions.items())))
    first, second = (TOKENIZER.tokenize(observations, actions, spec) for spec in (SPEC, backwards))
    np.testing.assert_array_equal(first.ids, second.ids)


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["", "go", "go to the red ball", "漢字 and more"]), min_size=1, max_size=5))
def test_an_episode_is_its_timesteps_one_after_the_other(missions: list[str]) -> None:
    """Whole episodes, whose texts may differ in length, against one timestep at a time."""
    observations, actions = _episode(len(missions), missions=missions)
    whole = TOKENIZER.tokenize(observations, actions, SPEC)
    for t in range(len(missions)):
        one = TOKENIZER.tokenize(
            {path: value[t : t + 1] for path, value in observations.items()},
            {path: value[t : t + 1] for path, value in actions.items()},
            SPEC,
        )
        part = whole.slice(t, t + 1)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(part, name), value, err_msg=name)
            assert getattr(part, name).dtype == value.dtype, name


def test_dtypes_and_patches() -> None:
    tokens = TOKENIZER.tokenize(*_episode(3), SPEC)
    dtypes = {name: str(value.dtype) for name, value in vars(tokens).items()}
    assert dtypes == {
        "ids": "int32",
        "loss_weight": "float32",
        "local_position": "int16",
        "timestep": "int32",
        "kinds": "int8",
        "patch_index": "int32",
        "patches": "uint8",
        "patch_intervals": "int16",
        "timestep_starts": "int32",
    }
    assert tokens.patches.shape == (12, 16, 16, 3)
    assert tokens.patch_intervals.shape == (12, 4)
    assert tokens.patch_index[tokens.patch_index >= 0].tolist() == list(range(12))


def test_several_cameras_have_their_patches_in_token_order() -> None:
    spec = EpisodeSpec.of({"a": LeafSpec("image", (16, 16, 3)), "b": LeafSpec("image", (16, 32, 3))}, {})
    a, b = np.full((2, 16, 16, 3), 1, np.uint8), np.full((2, 16, 32, 3), 2, np.uint8)
    a[1], b[1] = 3, 4
    tokens = TOKENIZER.tokenize({"a": a, "b": b}, {}, spec)
    assert tokens.patches[:, 0, 0, 0].tolist() == [1, 2, 2, 3, 4, 4]
    assert tokens.patch_index.tolist() == [0, 1, 2, -1, 3, 4, 5, -1]
    assert tokens.patch_intervals[1:3].tolist() == [[0, 128, 0, 64], [0, 128, 64, 128]]


def test_the_prefix_is_what_an_agent_sees() -> None:
    observations, actions = _episode(2)
    full = TOKENIZER.tokenize(observations, actions, SPEC)
    seen = TOKENIZER.tokenize(observations, None, SPEC)
    assert len(full) - len(seen) == 2 * 4
    not_action = full.local_position != ACTION_POSITION
    np.testing.assert_array_equal(full.ids[not_action], seen.ids)
    assert _kinds(seen)[-1] == "separator"


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_legal_action_tokens_decode_to_legal_actions_and_back(seed: int) -> None:
    ranges = TOKENIZER.action_ranges(SPEC)
    assert ranges.tolist() == [[32000, 33024]] * 3 + [[0, 3]]
    ids = np.random.default_rng(seed).integers(ranges[:, 0], ranges[:, 1], (2, 5, 4))
    actions = TOKENIZER.decode_actions(ids, SPEC)
    assert {path: value.shape for path, value in actions.items()} == {
        "boost": (2, 5),
        "force": (2, 5, 2),
        "grip": (2, 5),
    }
    assert (actions["force"] >= (-2, 0)).all()
    assert (actions["force"] <= (2, 10)).all()
    assert set(actions["grip"].ravel()) <= {0, 1, 2}
    observations, _ = _episode(5)
    again = TOKENIZER.tokenize(observations, {path: value[1] for path, value in actions.items()}, SPEC)
    np.testing.assert_array_equal(again.ids[again.local_position == ACTION_POSITION].reshape(5, 4), ids[1])


def test_extreme_action_tokens_are_legal_too() -> None:
    ranges = TOKENIZER.action_ranges(SPEC)
    for ids in (ranges[:, 0], ranges[:, 1] - 1):
        force = TOKENIZER.decode_actions(ids, SPEC)["force"]
        assert (force > (-2, 0)).all()
        assert (force < (2, 10)).all()


def test_illegal_action_tokens_are_refused() -> None:
    ids = TOKENIZER.action_ranges(SPEC)[:, 0]
    with pytest.raises(SpecError, match="action 'grip': token 3 is not in its range"):
        TOKENIZER.decode_actions(ids + np.array([0, 0, 0, 3]), SPEC)
    with pytest.raises(SpecError, match="action 'boost': token 31999"):
        TOKENIZER.decode_actions(ids - np.array([1, 0, 0, 0]), SPEC)
    with pytest.raises(SpecError, match="has 4"):
        TOKENIZER.decode_actions(ids[:3], SPEC)


def test_text_documents() -> None:
    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
    tokens = TOKENIZER.tokenize({"text": ["Hello, world"]}, {}, spec)
    assert (tokens.ids[0], tokens.ids[-1]) == (VOCABULARY.begin, VOCABULARY.end)
    assert TextTokenizer.default().decode(tokens.ids[1:-1]) == "Hello, world"
    assert _kinds(tokens) == ["special"] + ["text"] * (len(tokens) - 1)
    assert tokens.loss_weight.tolist() == [0] + [1] * (len(tokens) - 1)
    assert (tokens.local_position == NO_POSITION).all()
    assert tokens.timestep_starts.tolist() == [0, len(tokens)]
    np.testing.assert_array_equal(TOKENIZER.tokenize({"text": ["Hello, world"]}, None, spec).ids, tokens.ids[:-1])
    assert TOKENIZER.tokenize({}, None, spec).ids.tolist() == [VOCABULARY.begin]


def test_image_and_question_documents() -> None:
    leaves = {"image": LeafSpec("image", (16, 48, 3)), "question": LeafSpec("text"), "answer": LeafSpec("text")}
    spec = EpisodeSpec.of(leaves, {}, "document")
    document = {"image": np.zeros((1, 16, 48, 3), np.uint8), "question": [[1500, 1501]], "answer": [[1502]]}
    tokens = TOKENIZER.tokenize(document, {}, spec)
    assert tokens.ids.tolist() == [*[VOCABULARY.padding] * 3, 1500, 1501, 1502, VOCABULARY.end]
    assert tokens.local_position.tolist() == [0, 1, 2, -1, -1, -1, -1]
    assert tokens.loss_weight.tolist() == [0, 0, 0, 1, 1, 1, 1]
    del document["answer"]
    assert TOKENIZER.tokenize(document, None, spec).ids.tolist() == tokens.ids[:5].tolist()
    with pytest.raises(SpecError, match="'answer'"):
        TOKENIZER.tokenize(document, {}, spec)
    with pytest.raises(SpecError, match="'image' is missing, but 'question'"):
        TOKENIZER.tokenize({"question": ["a"], "answer": ["b"]}, None, spec)


def test_the_positions_of_each_picture_of_a_document_begin_anew() -> None:
    """Five pairs in a row are five observations one after the other; together they may have more than 512 patches."""
    size = (192, 192, 3)
    pair = {"image": LeafSpec("image", size), "text": LeafSpec("text")}
    leaves = {f"{name}_{k}": leaf for k in range(5) for name, leaf in pair.items()}
    spec = EpisodeSpec.of(leaves, {}, "document")
    pictures = {f"image_{k}": np.full((1, *size), k, np.uint8) for k in range(5)}
    tokens = TOKENIZER.tokenize({**pictures, **{f"text_{k}": [[1500 + k]] for k in range(5)}}, {}, spec)
    assert tokens.local_position.tolist() == [*[*range(144), NO_POSITION] * 5, NO_POSITION]
    np.testing.assert_array_equal(tokens.patches[tokens.patch_index[145 * 3 : 145 * 3 + 144]], 3)
    assert TOKENIZER.observed_tokens(spec) == 144
    too_large = EpisodeSpec.of({"image": LeafSpec("image", (368, 368, 3)), "text": LeafSpec("text")}, {}, "document")
    assert TOKENIZER.observed_tokens(too_large) == 23 * 23
    with pytest.raises(SpecError, match="529 tokens, but there are 512"):
        TOKENIZER.tokenize({"image": np.zeros((1, 368, 368, 3), np.uint8), "text": [[1]]}, {}, too_large)


def test_documents_hold_text_and_images_only() -> None:
    spec = EpisodeSpec.of({"speed": LeafSpec("continuous")}, {}, "document")
    with pytest.raises(SpecError, match="'speed'"):
        TOKENIZER.tokenize({"speed": np.zeros(1)}, {}, spec)


def test_a_recipes_layout_orders_and_weighs_its_own_tokens() -> None:
    layout = Layout(
        ("return", "observation", "action", "reward"),
        {"action": 2.0, "derived": 0.25, "reward": 0.5},
        {"return": LeafSpec("continuous"), "reward": LeafSpec("discrete", values=2)},
    )
    spec = EpisodeSpec.of({"x": LeafSpec("continuous")}, LeafSpec("discrete", values=4))
    tokenizer = SequenceTokenizer(VOCABULARY, None, layout)
    derived = {"return": np.array([10.0, 2.5]), "reward": np.array([False, True])}
    tokens = tokenizer.tokenize({"x": np.zeros(2)}, {"action": np.array([3, 1])}, spec, derived)
    assert tokens.ids.tolist() == [32860, 32512, 3, 0, 32790, 32512, 1, 1]  # golden values of 10 and 2.5
    assert _kinds(tokens) == ["derived", "continuous", "action", "derived"] * 2
    assert tokens.loss_weight.tolist() == [0.25, 0, 2, 0.5] * 2
    assert tokens.local_position.tolist() == [-1, 0, -2, -1] * 2
    seen = tokenizer.tokenize({"x": np.zeros(1)}, None, spec, {"return": np.array([10.0])})
    assert seen.ids.tolist() == [32860, 32512]
    with pytest.raises(SpecError, match="'return'"):
        tokenizer.tokenize({"x": np.zeros(1)}, None, spec)


def _replace(path: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    observations, actions = _episode(3)
    (observations if path in observations else actions)[path] = value
    return observations, actions


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("arm.speed", np.full((3, 2, 2), np.nan), r"observation 'arm\.speed': NaN or infinity at \[0, 0, 0\]"),
        ("force", np.full((3, 2), -np.inf), "action 'force': NaN or infinity"),
        ("arm.speed", np.zeros((3, 4)), r"'arm\.speed': shape \(4,\) a step, but the spec says \(2, 2\)"),
        ("arm.speed", np.zeros((2, 2, 2)), "2 steps, but other leaves have 3"),
        ("eye", np.zeros((3, 20, 32, 3), np.uint8), r"'eye': shape \(20, 32, 3\)"),
        ("eye", np.zeros((3, 20, 32, 1)), "'eye': dtype float64"),
        ("zoom", np.array([0, 5, 0]), r"'zoom': value 5 at \[1\]"),
        ("grip", np.zeros(3), "action 'grip': dtype float64"),
        ("zoom", np.int64(3), "'zoom': one value"),
        ("Mission", "go", "'Mission': one value"),
        ("Mission", ["go", "a\udc00", "go"], "'Mission': lone surrogate"),
        ("Mission", [b"go"] * 3, "'Mission': neither a string"),
        ("Mission", [[1], [32000], [1]], r"'Mission': a text id outside 0\.\.31999"),
    ],
)
def test_mistakes_name_the_leaf(path: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TOKENIZER.tokenize(*_replace(path, value), SPEC)


def test_a_missing_leaf_is_named() -> None:
    observations, actions = _episode(3)
    del observations["arms"]
    with pytest.raises(SpecError, match="observation leaf 'arms'"):
        TOKENIZER.tokenize(observations, actions, SPEC)


@pytest.mark.parametrize(
    ("leaf", "error", "message"),
    [
        (LeafSpec("continuous"), SpecError, "action 'action': without the mu-law a finite range"),
        (LeafSpec("continuous", low=0, high=float("inf")), SpecError, "declare low and high"),
        (LeafSpec("text"), SpecError, "action 'action': modality text"),
        (LeafSpec("discrete", values=2000), VocabularyError, "action 'action': .*2000 values"),
    ],
)
def test_actions_that_cannot_be_tokenized_are_refused(leaf: LeafSpec, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TOKENIZER.action_ranges(EpisodeSpec.of({"x": LeafSpec("continuous")}, leaf))


def test_an_observation_longer_than_the_table_of_positions_is_refused() -> None:
    spec = EpisodeSpec.of({"x": LeafSpec("continuous", (513,))}, {})
    with pytest.raises(SpecError, match=r"513 tokens.*512 local positions.*set local_positions"):
        TOKENIZER.tokenize({"x": np.zeros((1, 513))}, {}, spec)
    larger = SequenceTokenizer(VOCABULARY, None, Layout(), local_positions=513)
    assert len(larger.tokenize({"x": np.zeros((1, 513))}, {}, spec)) == 514


def test_a_text_model_with_more_pieces_than_ids_is_refused() -> None:
    with pytest.raises(VocabularyError, match=r"32000 pieces.*2048"):
        SequenceTokenizer(Vocabulary(2048), TextTokenizer.default(), Layout())


def test_text_needs_a_model_but_ids_do_not() -> None:
    tokenizer = SequenceTokenizer(VOCABULARY, None, Layout())
    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, "document")
    assert tokenizer.tokenize({"text": [[5, 6]]}, {}, spec).ids[1:3].tolist() == [5, 6]
    with pytest.raises(SpecError, match="without a text model"):
        tokenizer.tokenize({"text": ["a"]}, {}, spec)
