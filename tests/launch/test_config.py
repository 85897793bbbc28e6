"""Experiment files and overrides: types are kept, every mistake names the key and the way out."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from gato.fields import ConfigError
from gato.launch import cli
from gato.launch.config import (
    apply_override,
    load_config,
    shipped_configs,
    sources_in,
    train_config,
    without_data,
)
from gato.model.presets import preset
from gato.tokenizers.errors import GatoError

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


MIXTURE = """
from gato.launch.config import default_config, domain_in

def get_config(folder):
    config = default_config()
    config.model.preset = "tiny"
    config.sources = [
        *domain_in(f"{folder}/meta_world", 2.0, held_out_episodes=5),
        *domain_in(f"{folder}/books", 1.0),
    ]
    return config
"""


def test_a_weight_for_a_domain_is_shared_by_its_stores(tmp_path: Path) -> None:
    for name, steps in (("meta_world/reach", 30), ("meta_world/door/push", 10), ("books", 5)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "store.json").write_text(json.dumps({"timesteps": steps}))
    file = tmp_path / "mixture.py"
    file.write_text(MIXTURE)
    config = train_config(load_config(f"{file}:{tmp_path}"))
    weights = {Path(source.path).name: source.weight for source in config.sources}
    assert weights == pytest.approx({"push": 0.5, "reach": 1.5, "books": 1.0})
    assert [source.held_out_episodes for source in config.sources] == [5, 5, 0]
    with pytest.raises(ConfigError, match=r"nowhere/meta_world: holds no stores"):
        load_config(f"{file}:{tmp_path / 'nowhere'}")
    with without_data():  # `gato plan` needs no data
        planned = load_config(f"{file}:{tmp_path / 'nowhere'}")
    assert [source["weight"] for source in planned.sources] == [2.0, 1.0]


DEFAULTS = """
from gato.launch.config import default_config

def get_config(folder):
    config = default_config()
    config.model.preset = "tiny"
    config.optimizer.update({"decay_steps": None})
    config.sources = [{"path": folder}]
    return config
"""


@pytest.fixture
def defaults(tmp_path: Path) -> str:
    (tmp_path / "defaults.py").write_text(DEFAULTS)
    return f"{tmp_path / 'defaults.py'}:{tmp_path}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=abc", "model.width must be a whole number, got 'abc'"),
        ("model.width=32.0", "model.width must be a whole number, got 32.0"),
        ("model.scan_layers=off", "model.scan_layers must be True or False, got 'off'"),
        ("model.dropout=true", "model.dropout must be a number, got True"),
        ("model.position=3", "model.position must be 'transformer_xl' or 'rope', got 3"),
        ("model.patch=64", "model.patch must be a dictionary of its fields, got 64"),
        ("model.patch={'widht': 64}", "unknown field 'model.patch.widht'; did you mean 'width'"),
        ("model.patch={'width': 'wide'}", "model.patch.width must be a whole number, got 'wide'"),
        ("optimizer.decay_steps=abc", "optimizer.decay_steps must be a whole number or None, got 'abc'"),
        ("seed=none", "seed must be a whole number, got None"),
        ("text_model=5", "text_model must be text or None, got 5"),
        ("sources=[{'path': 'a', 'loss_kinds': 'action'}]", "sources[0].loss_kinds must be a list or None"),
        ("sources=[{'path': 'a', 'weight': 'much'}]", "sources[0].weight must be a number, got 'much'"),
        ("sources=['a']", "sources[0] must be a dictionary of its fields, got 'a'"),
        ("extra_tokens=(1,)", "extra_tokens must be a list, got (1,)"),
    ],
)
def test_a_value_of_another_type_is_one_clear_line(defaults: str, override: str, message: str) -> None:
    """Keys that are None, or inside a list, show no type in the file: the fields' own types decide."""
    with pytest.raises(GatoError) as caught:
        train_config(load_config(defaults, [override]))
    assert message in str(caught.value)


def test_single_fields_of_the_patch_can_be_changed(defaults: str) -> None:
    model = train_config(load_config(defaults, ["model.patch={'width': 32}", "model.dropout=0"])).model
    assert model.patch == dataclasses.replace(preset("tiny").patch, width=32)
    assert train_config(load_config(defaults, ["optimizer.decay_steps=20000"])).optimizer.decay_steps == 20_000


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef get_config(:\n    pass\n", "line 2: SyntaxError: "),
        ("import ml_collections\n\nml_collections.ConfigDikt()\n", "line 3: AttributeError: "),
        ("def helper():\n    return {}['x']\ndef get_config():\n    return helper()\n", "line 2: KeyError: 'x'"),
        ("import json\ndef get_config():\n    return json.loads('{')\n", "line 3: JSONDecodeError: "),
        ("raise RuntimeError\n", "line 1: RuntimeError"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_mistake_in_an_experiment_file_names_its_line(
    tmp_path: Path, source: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(source)
    command = ["train", "--config=mine.py", "--out", "run"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gato: mine.py, {message}")
    assert error.count("\n") == 1
    monkeypatch.setenv("GATO_DEBUG", "1")
    with pytest.raises(ConfigError) as caught:
        cli.main(command)
    assert type(caught.value.__cause__).__name__ in message


@pytest.mark.parametrize("name", ["gato_79m", "gato_364m", "gato_1_2b"])
def test_the_papers_experiments_become_configurations(name: str, tmp_path: Path) -> None:
    """With their networks, their optimizers and a source for every store of the folder, finished ones only."""
    for store in ("suite/a", "suite/b", "suite/.c.partial"):
        (tmp_path / store).mkdir(parents=True)
        (tmp_path / store / "store.json").touch()
    reference = f"{name}:{tmp_path}"
    config = train_config(load_config(reference))
    assert [source.path for source in config.sources] == [str(tmp_path / "suite/a"), str(tmp_path / "suite/b")]
    assert config.model == preset(name, remat="full", dtype="bfloat16")
    assert config.model.position == "transformer_xl"
    assert (config.batch_size, config.length, config.steps) == (512, 1024, 1_000_000)
    assert config.optimizer.learning_rate == (2e-4 if name == "gato_364m" else 1e-4)
    assert (config.optimizer.warmup_steps, config.optimizer.decay_steps) == (15_000, 1_000_000)
    with pytest.raises(ConfigError, match=r"holds no stores; .* gato collect"):
        load_config(f"{name}:{tmp_path / 'empty'}")
    shorter = load_config(reference, ["steps=20000", "optimizer.decay_steps=none"])
    assert train_config(shorter).optimizer.decay_steps is None
