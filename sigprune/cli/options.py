"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sigprune.base.errors import BadInput
from sigprune.base.registry import JsonValue

if TYPE_CHECKING:
    from sigprune.recipe.recipe import Recipe

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="timm:NAME, transformers:TYPE, torch:PATH, Hub id, folder")
]
Checkpoint = Annotated[
    str, typer.Argument(metavar="REF", help="folder that run or prune wrote, or user/repo[@revision]")
]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="branch, tag or commit of a repository")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="change a value of the recipe")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="folder to write; default runs/NAME-DIGEST")]
Force = Annotated[bool, typer.Option("--force", help="replace a folder that exists")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="consent to all that the file asks for: code to call, files elsewhere, a push"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Pretrained = Annotated[bool, typer.Option(help="start from trained weights")]
Weights = Annotated[
    bool | None,
    typer.Option("--pretrained/--fresh", help="trained or fresh weights (a folder's own, else fresh)"),
]
RecipeRef = Annotated[str, typer.Argument(metavar="RECIPE", help="a shipped recipe's name, or a YAML file")]
Seed = Annotated[int, typer.Option(help="all randomness follows from it")]
Parameters = Annotated[
    str | None, typer.Option(help="instead: parameters kept in all, or a model that has as many")
]
MaskRef = Annotated[
    str | None, typer.Option(metavar="REF", help="instead: a run's mask, from its folder or repository")
]
ByShard = Annotated[
    bool, typer.Option("--by-shard", help="prune files larger than memory, by magnitude or random")
]


def recipe_for(model: str, pretrained: bool, seed: int, settings: Sequence[str]) -> Recipe:
    """The defaults with a model's name and what was asked for."""
    from sigprune.recipe.recipe import override, parse_recipe

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.split(r"[:/@]", model.rstrip("/"))[-1]).lstrip("._-")
    start: dict[str, JsonValue] = {
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
