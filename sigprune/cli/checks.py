"""The command that asks whether a mask matters, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sigprune.base.registry import JsonValue
from sigprune.cli.options import AsJson, Quiet, RecipeRef, Settings, Trust

if TYPE_CHECKING:
    from rich.console import Console


def check(
    recipe: RecipeRef,
    *,
    variant: Annotated[
        list[str] | None, typer.Option(help="one of them only; may be repeated (all that make sense)")
    ] = None,
    seeds: Annotated[int, typer.Option(help="repetitions of each, with other seeds")] = 1,
    settings: Settings = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Does the mask matter? A recipe again with masks shuffled, inverted, from corrupted data..."""
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.experiment.sanity_checks import check as carry_out
    from sigprune.recipe.recipe import load_recipe

    checked = load_recipe(recipe, settings or ())
    checked = checked.consented() if trust else checked
    done = carry_out(checked, watch(quiet=quiet), variants=variant or (), seeds=seeds)
    rows = [cast("dict[str, JsonValue]", row) for row in done]
    print_json(rows) if as_json else _print(console(), rows)


def _print(console: Console, rows: Sequence[Mapping[str, JsonValue]]) -> None:
    """What became of each variant, then why some were stopped or left out."""
    shown = "variant", "overlap", "chance", "mean_jsv", "effective_sparsity", "test_accuracy", "accuracy_std"
    run = [row for row in rows if "skipped" not in row]
    known = [key for key in shown if any(not _is_unknown(row[key]) for row in run)]
    from sigprune.cli.console import print_rows

    print_rows(console, [{key: row[key] for key in known} for row in run], digits=3)
    console.print("\noverlap: Jaccard index with the mask of the recipe itself; chance: of independent masks")
    for row in rows:
        if row.get("stopped"):
            console.print(f"{row['variant']}: stopped: {row['stopped']}", style="yellow")
        elif row.get("skipped"):
            console.print(f"{row['variant']}: left out: {row['skipped']}")


def _is_unknown(value: JsonValue) -> bool:
    return isinstance(value, float) and math.isnan(value)
