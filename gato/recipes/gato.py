"""Gato's own recipe (Reed et al. 2022, sections 2.1-2.4).

Layout: observation, separator, action. Weight: 1 on text and actions, 0 on everything else. Conditioning: none beyond
the prompt. Decoding: plain sampling for control, temperature 0.9 for text.
"""

from gato.recipes.recipe import Recipe
from gato.tokenizers.layout import Layout

GATO = Recipe(name="gato", layout=Layout())
