"""Experiment files and overrides: types are kept, every mistake names the key and the way out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from gato.launch.config import ConfigError, apply_override, load_config, shipped_configs, sources_in, train_config

EXPERIMENT = """
from ml_collections import ConfigDict

def get_config(argument="nothing"):
    return ConfigDict({
        "seed": 3, "note": argument, "decay": None, "flag": False, "sizes": (1, 2),
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 10},
    })
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


def test_reads_a_file_and_its_argument(experiment: Path) -> None:
    assert load_config(str(experiment)).note == "nothing"
    assert load_config(f"{experiment}:here").note == "here"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("note=7", "7"),
        ("flag=true", True),
        ("decay=100", 100),
        ("sizes=[3,4]", (3, 4)),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.learning_rate=1", 1.0),
    ],
)
def test_override_keeps_the_type(experiment: Path, override: str, value: object) -> None:
    config = load_config(str(experiment), [override])
    for key in override.partition("=")[0].split("."):
        config = config[key]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=7", "no key 'sed'; did you mean 'seed'?"),
        ("optimizer.learning_rat=1", "no key 'optimizer.learning_rat'; did you mean 'learning_rate'?"),
        ("optimiser.learning_rate=1", "did you mean 'optimizer'?"),
        ("seed=1.5", "'1.5' is no int"),
        ("flag=1", "is no bool"),
        ("optimizer=1", "is a group"),
        ("seed.x=1", "seed is a value and has no keys"),
        ("seed", "give a value"),
    ],
)
def test_a_wrong_override_is_one_clear_line(experiment: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(str(experiment), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_override_does_not_leak_into_the_next_load(experiment: Path) -> None:
    load_config(str(experiment), ["seed=9"])
    assert load_config(str(experiment)).seed == 3


def test_the_config_is_locked(experiment: Path) -> None:
    with pytest.raises((AttributeError, KeyError)):
        load_config(str(experiment)).sed = 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "defines no get_config()"),
        ("def get_config():\n    return {}", "returned dict"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load_config(str(path))


def test_an_unknown_name_is_suggested() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gato_79m'"):
        load_config("gato_97m")
    with pytest.raises(ConfigError, match="no file"):
        load_config("missing.py")


def test_an_argument_where_none_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()")
    with pytest.raises(ConfigError, match="takes no argument"):
        load_config(f"{path}:data")


def test_apply_override_changes_only_its_key() -> None:
    config = ConfigDict({"a": {"b": 1, "c": 2}})
    apply_override(config, "a.b=5")
    assert config.to_dict() == {"a": {"b": 5, "c": 2}}


def test_train_config_wants_a_preset_and_knows_its_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a preset"):
        train_config(ConfigDict({"model": {}}))
    base = {"model": {"preset": "tiny"}, "sources": [{"path": str(tmp_path)}], "length": 128}
    config = train_config(ConfigDict(base | {"model": {"preset": "tiny", "layers": 1}}))
    assert (config.length, config.model.layers) == (128, 1)
    with pytest.raises(Exception, match="did you mean 'batch_size'"):
        train_config(ConfigDict(base | {"batch_sise": 2}))


def test_a_presets_field_can_be_changed_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "experiment.py"
    path.write_text(
        "from gato.launch.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.model.preset = 'tiny'\n"
        f"    config.sources = [{{'path': {str(tmp_path)!r}}}]\n"
        "    return config\n"
    )
    assert train_config(load_config(str(path))).model.layers == 2
    assert train_config(load_config(str(path), ["model.layers=1"])).model.layers == 1
    with pytest.raises(ConfigError, match=r"no key 'model.layrs'; did you mean 'layers'"):
        load_config(str(path), ["model.layrs=1"])


def test_sources_in_a_folder_are_its_finished_stores(tmp_path: Path) -> None:
    for folder in ("b", "a/inner", "a/inner/part-00000", ".c.import/part-00000", "deep/er/d"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "store.json").write_text("{}")
    (tmp_path / "elsewhere" / "part-00000").mkdir(parents=True)
    for folder in ("elsewhere", "elsewhere/part-00000"):
        (tmp_path / folder / "store.json").write_text("{}")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "deep" / "round").symlink_to(tmp_path / "data")
    found = [Path(source["path"]).relative_to(tmp_path).as_posix() for source in sources_in(str(tmp_path / "data"))]
    assert found == ["data/a/inner", "data/b", "data/deep/er/d", "data/linked"]
    assert sources_in(str(tmp_path / "data" / "b"), weight=2.0) == [{"path": str(tmp_path / "data/b"), "weight": 2.0}]
    for nothing in ("data/.c.import/part-00000/x", "data/deep/round/none"):
        with pytest.raises(ConfigError, match=r"holds no stores.*gato data import"):
            sources_in(str(tmp_path / nothing))


def test_shipped_experiments_exist() -> None:
    assert {"quickstart", "gato_79m", "gato_364m", "gato_1_2b"} <= set(shipped_configs())


def test_the_papers_mixture_lists_what_is_missing(tmp_path: Path) -> None:
    mixture = importlib.import_module("gato.launch.configs.mixtures.gato_paper")
    assert sum(mixture.WEIGHTS.values()) == pytest.approx(100, abs=1.0)  # the paper's numbers are rounded
    for name, steps in (("meta_world/reach", 30), ("meta_world/push", 10), ("massive_text/books", 5)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "store.json").write_text(json.dumps({"timesteps": steps}))
    with pytest.raises(ConfigError, match=r"missing dm_lab, atari, .*\d+\.\d\d % of the tokens.*redistribute"):
        load_config(f"mixtures/gato_paper:{tmp_path}")
    config = load_config(f"mixtures/gato_paper:{tmp_path},redistribute")
    weights = {Path(source["path"]).name: source["weight"] for source in config.sources}
    assert weights == pytest.approx({"push": 8.96 / 4, "reach": 8.96 * 3 / 4, "books": 6.7})
    with pytest.raises(ConfigError, match="not 'redistribut'"):
        load_config(f"mixtures/gato_paper:{tmp_path},redistribut")
    with pytest.raises(ConfigError, match="none of the paper's domains"):
        load_config(f"mixtures/gato_paper:{tmp_path / 'meta_world'}")
