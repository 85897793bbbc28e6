"""The training configuration: JSON round trip, unknown fields, differences between two runs."""

import json

import pytest

from gato.fields import ConfigError
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.config import TrainConfig
from gato.training.run_directory import config_differences


def test_json_round_trip(train_config):
    assert TrainConfig.from_json(json.loads(json.dumps(train_config.to_json()))) == train_config


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("bacth_size",), "unknown field 'bacth_size'; did you mean 'batch_size'"),
        (("optimizer", "learning_rat"), "'optimizer.learning_rat'; did you mean 'learning_rate'"),
        (("mesh", "fdsp"), "'mesh.fdsp'; did you mean 'fsdp'"),
    ],
)
def test_unknown_field_gets_a_suggestion(train_config, path, message):
    data = train_config.to_json()
    node = data
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = 1
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_json(data)


def test_contradictions_are_refused(train_config):
    with pytest.raises(ConfigError, match="sources: a run needs at least one"):
        train_config.replace(sources=())
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        train_config.replace(batch_size=0)
    with pytest.raises(ConfigError, match="loader_workers must be >= 0"):
        train_config.replace(loader_workers=-1)
    with pytest.raises(ConfigError, match="vocabulary needs 4096 rows and bins from 3000"):
        train_config.check_vocabulary(Vocabulary(3000))


def test_differences_name_what_decides_the_numbers_and_nothing_else(train_config):
    old = train_config.to_json()
    new = json.loads(json.dumps(old))
    new["keep"] = 99
    new["sources"][0]["path"] = "/moved"
    assert config_differences(old, new) == []
    new["sources"][1]["weight"] = 5.0
    new["optimizer"]["clip_norm"] = 2.0
    assert config_differences(old, new) == [("optimizer.clip_norm", "1.0", "2.0"), ("sources[1].weight", "1.0", "5.0")]
