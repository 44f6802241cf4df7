"""Recipes: a whole experiment as data, in a closed world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from sigprune.recipe.recipe import Recipe as Recipe
    from sigprune.recipe.recipe import load_recipe as load_recipe
    from sigprune.recipe.recipe import parse_recipe as parse_recipe

__getattr__ = lazy_names(__name__, dict.fromkeys(("Recipe", "load_recipe", "parse_recipe"), "recipe"))
