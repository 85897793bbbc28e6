"""Finding recipes, and what Gato's own says."""

import numpy as np
import pytest

from gato.recipes import recipe as recipe_module
from gato.recipes.recipe import Decoding, Recipe, RecipeError, get_recipe, list_recipes
from gato.tokenizers.layout import Layout


def test_gato_is_the_paper_s_layout_and_mask():
    gato = get_recipe("gato")
    assert gato.layout.timestep == ("observation", "separator", "action")
    assert gato.layout.weights == {"text": 1.0, "action": 1.0}
    assert gato.decoding == Decoding(control_temperature=1.0, text_temperature=0.9)
    assert gato.derive is None
    assert gato.episode_weight is None
    conditioning = gato.conditioning(gato.statistics(np.array([1.0])))
    assert conditioning.start(5.0) == conditioning.update(1.0) == {}


def test_unknown_name_gets_a_suggestion():
    with pytest.raises(RecipeError, match="unknown recipe 'return_condition'; did you mean 'return_conditioned'"):
        get_recipe("return_condition")


class _Point:
    name, value = "mine", "package:THING"

    def __init__(self, thing):
        self._thing = thing

    def load(self):
        return self._thing


def test_entry_point_of_another_package(monkeypatch):
    mine = Recipe("mine", Layout())
    monkeypatch.setattr(recipe_module, "entry_points", lambda group: [_Point(mine)] if group == "gato.recipes" else [])
    assert get_recipe("mine") is mine
    assert list_recipes() == ["gato", "mine", "return_conditioned"]
    monkeypatch.setattr(recipe_module, "entry_points", lambda group: [_Point(3)])
    with pytest.raises(RecipeError, match="'package:THING' of recipe 'mine' is a int"):
        get_recipe("mine")


def test_a_recipe_of_an_installed_package(tmp_path, monkeypatch):
    """A real distribution on the path, as pip would leave it."""
    (tmp_path / "elsewhere.py").write_text(
        "from gato.recipes.recipe import Recipe\nfrom gato.tokenizers.layout import Layout\n"
        "THEIRS = Recipe('theirs', Layout())\n"
    )
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gato.recipes]\ntheirs = elsewhere:THEIRS\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert get_recipe("theirs").name == "theirs"
    assert "theirs" in list_recipes()
