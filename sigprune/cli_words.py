"""What words on the command line mean: recipes, settings, values to compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sigprune.base.errors import BadInput
from sigprune.base.family import Plain

if TYPE_CHECKING:
    from sigprune.recipe import Recipe


def recipe_for(model: str, pretrained: bool, seed: int, settings: Sequence[str]) -> Recipe:
    """The defaults with a model's name and what was asked for."""
    from sigprune.recipe import override, parse_recipe

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.split(r"[:/@]", model.rstrip("/"))[-1]).lstrip("._-")
    start: dict[str, Plain] = {
        "name": name or "model",
        "seed": seed,
        "model": {"ref": model, "pretrained": pretrained},
    }
    return parse_recipe(override(start, settings))


def compared(text: str) -> tuple[str, list[str]]:
    """The path and the values of ``PATH=A,B``; commas inside brackets separate nothing."""
    path, equals, rest = text.partition("=")
    values = [value.strip() for value in re.split(r",(?![^{\[]*[}\]])", rest) if value.strip()]
    if not equals or not values:
        raise BadInput(f"--compare {text}: expected PATH=A,B, for example init.method=orthogonal,kaiming")
    path = {"init": "init.method"}.get(path.strip(), path.strip())
    if path.split(".")[0] not in {"model", "data", "init", "measure", "seed"}:
        raise BadInput(f"--compare {path}: it changes nothing before pruning; compare what init or model say")
    return path, values


def own_weights(model: str, pretrained: bool | None) -> bool:
    """A folder is looked at as it is, unless fresh weights are asked for."""
    return Path(model).is_dir() if pretrained is None else pretrained


def setting(value: str | float) -> str:
    """The value as a recipe has it."""
    return "null" if value == "none" else str(value)
