"""The return-conditioned recipe: tokens, weights and the decremented target, through the shared tokenizer."""

import numpy as np
import pytest

from gato.data_pipelines.episode import Episode
from gato.recipes.recipe import RecipeError, get_recipe
from gato.recipes.return_conditioned import LEAF, returns_to_go, scaled_return
from gato.tokenizers.layout import KINDS
from gato.tokenizers.sequence import SequenceTokenizer
from gato.tokenizers.spec import EpisodeSpec, LeafSpec
from gato.tokenizers.vocabulary import Vocabulary

RECIPE = get_recipe("return_conditioned")
VOCABULARY = Vocabulary(2048)
SPEC = EpisodeSpec.of({"grid": LeafSpec("discrete", (2,), values=8)}, {"go": LeafSpec("discrete", (), values=4)})
EPISODE = Episode(
    {"grid": np.arange(6).reshape(3, 2)}, {"go": np.array([3, 1, 2])}, np.array([0.0, 1.0, 2.5], np.float32)
)


def tokenize(recipe, episode):
    tokenizer = SequenceTokenizer(VOCABULARY, None, recipe.layout)
    return tokenizer.tokenize(episode.observations, episode.actions, SPEC, recipe.derived(episode))


def bin_of(returns):
    """Id of a return's token, from the specification: sign * log(1 + |R|) / log(1 + 10^6), 1,024 bins on [-1, 1]."""
    scaled = np.sign(returns) * np.log1p(abs(returns)) / np.log1p(1e6)
    return 2048 + min(int((scaled + 1) / 2 * 1024), 1023)


def test_a_return_to_go_stands_before_each_observation():
    ids = tokenize(RECIPE, EPISODE).ids.reshape(3, 5)
    separator = VOCABULARY.separator
    assert ids.tolist() == [
        [bin_of(3.5), 0, 1, separator, 3],
        [bin_of(3.5), 2, 3, separator, 1],
        [bin_of(2.5), 4, 5, separator, 2],
    ]


def test_only_actions_are_learned_and_the_rest_of_the_sequence_is_gato_s():
    ours, gato = tokenize(RECIPE, EPISODE), tokenize(get_recipe("gato"), EPISODE)
    assert ours.loss_weight.reshape(3, 5).tolist() == [[0, 0, 0, 0, 1]] * 3
    derived = ours.kinds == KINDS.index("derived")
    assert derived.reshape(3, 5).tolist() == [[True, False, False, False, False]] * 3
    np.testing.assert_array_equal(ours.ids[~derived], gato.ids)
    np.testing.assert_array_equal(ours.local_position[~derived], gato.local_position)


def test_text_is_not_learned():
    spec = EpisodeSpec.of({"text": LeafSpec("text")}, {}, kind="document")
    tokenizer = SequenceTokenizer(VOCABULARY, None, RECIPE.layout)
    episode = Episode({"text": [np.array([5, 6, 7])]}, {}, np.zeros(1, np.float32))
    sequence = tokenizer.tokenize(episode.observations, {}, spec, RECIPE.derive(episode))
    assert 6 in sequence.ids
    assert not sequence.loss_weight.any()


def test_returns_to_go():
    assert returns_to_go(np.array([1.0, -2.0, 4.0])).tolist() == [3.0, 2.0, 4.0]
    assert returns_to_go(EPISODE.rewards).tolist() == [3.5, 3.5, 2.5]


def test_scale_is_monotone_symmetric_and_saturates():
    returns = np.array([-1e9, -1000, -1, 0, 0.5, 1, 30, 1000, 1e6, 1e9])
    scaled = scaled_return(returns)
    assert np.all(np.diff(scaled[1:-1]) > 0)
    np.testing.assert_array_equal(scaled_return(-returns), -scaled)
    assert (scaled[0], scaled[-1]) == (-1, 1)


def test_acting_sees_the_tokens_that_training_saw():
    """An agent that collects exactly the demonstration's rewards is shown the demonstration's own returns-to-go."""
    conditioning = RECIPE.conditioning(RECIPE.statistics(np.array([3.5])))
    seen = [conditioning.start()[LEAF], *(conditioning.update(reward)[LEAF] for reward in EPISODE.rewards[:-1])]
    np.testing.assert_allclose(seen, RECIPE.derive(EPISODE)[LEAF], rtol=1e-6)


def test_default_target_is_a_high_quantile_and_a_given_one_goes_first():
    statistics = RECIPE.statistics(np.arange(101.0))
    assert statistics == {"target_return": 90.0}
    conditioning = RECIPE.conditioning(statistics)
    assert conditioning.start()[LEAF] == pytest.approx(float(scaled_return(90.0)))
    assert conditioning.start(12.0)[LEAF] == pytest.approx(float(scaled_return(12.0)))
    assert conditioning.update(2.0)[LEAF] == pytest.approx(float(scaled_return(10.0)))
    assert conditioning.start()[LEAF] == pytest.approx(float(scaled_return(90.0)))


def test_missing_or_senseless_target_is_refused():
    conditioning = RECIPE.conditioning({})
    with pytest.raises(RecipeError, match=r"no target return .* `targets` of Agent.reset"):
        conditioning.start()
    with pytest.raises(RecipeError, match="must be finite"):
        conditioning.start(float("nan"))
