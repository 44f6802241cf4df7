"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
