"""The commands that write checkpoints without a recipe: prune and convert."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sigprune.base.errors import BadInput
from sigprune.cli.options import (
    AsJson,
    ByShard,
    Checkpoint,
    Force,
    MaskRef,
    Model,
    Out,
    Parameters,
    Pretrained,
    Quiet,
    Revision,
    Seed,
    Settings,
    recipe_for,
    setting,
)
from sigprune.format.names import CARD

if TYPE_CHECKING:
    from sigprune.recipe.recipe import Recipe

_BY_SHARD = re.compile(
    r"(prune\.(sparsity|include|exclude|heads)|(prune\.(score|allocation|pattern)|save\.codec)(\.\w+)?)="
)
"""What pruning by files can take of a recipe."""


def prune(
    model: Model,
    *,
    sparsity: Annotated[float | None, typer.Option(help="fraction removed, in [0, 1) (0.9)")] = None,
    parameters: Parameters = None,
    mask: MaskRef = None,
    score: Annotated[str | None, typer.Option(help="what ranks the weights (snip)")] = None,
    objective: Annotated[str | None, typer.Option(help="what such a score differentiates (labels)")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="initialiser; none keeps values but opens closed gates (orthogonal)"),
    ] = None,
    allocation: Annotated[
        str | None, typer.Option(help="how much each weight keeps (what fits the score)")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="rounds of pruning (the score's own)")] = None,
    isometry: Annotated[str | None, typer.Option(help="what restores isometry, or none (lbfgs)")] = None,
    data: Annotated[str | None, typer.Option(help="data set (digits)")] = None,
    size: Annotated[int | None, typer.Option(help="side of the images in pixels (the model's)")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the data; 0 trains nothing (10)")] = None,
    pretrained: Pretrained = False,
    by_shard: ByShard = False,
    seed: Seed = 0,
    settings: Settings = None,
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The same for a model by name, without a recipe file; recipe.yaml in the folder shows all defaults."""
    chosen: dict[str, str | int | float | None] = {
        "prune.sparsity": sparsity,
        "prune.parameters": parameters,
        "prune.mask": mask,
        "prune.score": score,
        "prune.objective": objective,
        "init.method": init,
        "prune.allocation": allocation,
        "prune.schedule": schedule,
        "isometry": isometry,
        "data.source": data,
        "data.size": size,
        "train.epochs": epochs,
    }
    given = {path: value for path, value in chosen.items() if value is not None}
    words = [*(f"{path}={setting(value)}" for path, value in given.items()), *(settings or ())]
    if by_shard:
        _by_shard(model, words, seed, out, force=force, quiet=quiet, as_json=as_json)
    else:
        carry_out(recipe_for(model, pretrained, seed, words), out, force=force, quiet=quiet, as_json=as_json)


def convert(
    ref: Checkpoint,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="new folder")],
    *,
    to: Annotated[
        Literal["packed", "dense", "both"] | None,
        typer.Option(help="what to write (packed; dense of --weights)"),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="how masked tensors are packed (as they are; dense ones: bitmask)")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="REF", help="mask of a dense checkpoint (its zeros tell)")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="read this state dict (.pth, .pt, .bin) for the model of REF"),
    ] = None,
    by_order: Annotated[
        bool,
        typer.Option("--by-order", help="its tensors have other names, in the model's order"),
    ] = False,
    max_shard: Annotated[float, typer.Option(min=0.001, help="GB of tensors in one file")] = 5.0,
    accept_config: Annotated[
        bool, typer.Option("--accept-config", help="take config.json as it is now, though it was edited")
    ] = False,
    revision: Revision = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint anew, packed or dense, file by file; dense ones that are sparse already too.

    Settings, vocabularies, a run's report and figures go along; the card (README.md) stays behind, and push
    makes one.
    """
    from sigprune.checkpoint.conversion import convert as write
    from sigprune.checkpoint.conversion import convert_state_dict
    from sigprune.checkpoint.state_dict_files import StateDictFile
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.cli.tables import print_written

    if by_order and weights is None:
        raise BadInput("--by-order says how the tensors of --weights are named: give both")
    if not math.isfinite(max_shard):
        raise BadInput(f"--max-shard: expected a number of GB, got {max_shard}")
    with watch(quiet=quiet).step(f"convert {ref}"):
        max_shard_bytes = round(max_shard * 1e9)
        if weights is None:
            done = write(
                ref, folder, to=to or "packed", codec=codec, mask=mask, revision=revision,
                max_shard_bytes=max_shard_bytes, force=force, accept_config=accept_config,
            )  # fmt: skip
        else:
            done = convert_state_dict(
                StateDictFile(weights, by_order), ref, folder, to=to or "dense", codec=codec, mask=mask,
                revision=revision, max_shard_bytes=max_shard_bytes, force=force,
            )  # fmt: skip
    if as_json:
        counts = {"tensors": len(done.layers), "kept": done.kept, "total": done.total}
        facts = {"folder": str(folder), "files": dict(done.files), **counts, "sparsity": done.sparsity}
        print_json(facts | {"left_behind": list(done.left), "notes": list(done.notes)})
    else:
        print_written(console(), done)


def _by_shard(
    model: str,
    words: Sequence[str],
    seed: int,
    out: Path | None,
    *,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Prune files; everything that is not the threshold's belongs to networks that are run."""
    from sigprune.checkpoint.inspection import inspect
    from sigprune.checkpoint.prune_shards import prune_files
    from sigprune.checkpoint.writers import staging_dir
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.cli.tables import nearly_empty, print_checkpoint, print_left
    from sigprune.format.index import read_manifest
    from sigprune.propagation.emptied import EmptiedWeights
    from sigprune.pruning.choose import Method
    from sigprune.report.model_card import plain_card

    if unused := ", ".join(word for word in words if not _BY_SHARD.match(word)):
        raise BadInput(
            f"--by-shard prunes files and runs no network: leave out {unused} (it takes sparsity, score, "
            "allocation, prune.pattern, prune.include, prune.exclude, prune.heads and save.codec)"
        )
    recipe = recipe_for(model, True, seed, ["prune.score=magnitude", *words])
    folder = out or Path("runs") / f"{model.rstrip('/').rpartition('/')[2]}-by-shard"
    with (
        staging_dir(folder, model, force=force) as staging,
        watch(quiet=quiet).step("prune by shard") as on_progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", EmptiedWeights)  # printed, or in the JSON
        done = prune_files(
            model,
            staging,
            sparsity=recipe.prune.sparsity or 0.0,
            method=Method(recipe.prune.score, recipe.prune.allocation, recipe.prune.pattern),
            codec=recipe.save.codec,
            include=recipe.prune.include + (("head",) if recipe.prune.heads == "prune" else ()),
            exclude=recipe.prune.exclude,
            seed=seed,
            on_progress=on_progress,
        )
        (staging / CARD).write_text(plain_card(read_manifest(staging)), encoding="utf-8")
    facts = inspect(folder)
    shown_warnings = [*done.warnings, *nearly_empty(done)]
    if as_json:
        print_json({
            "folder": str(folder),
            **facts,
            "left_behind": list(done.left),
            "warnings": shown_warnings,
        })
        return
    print_checkpoint(console(), facts)
    for line in shown_warnings:
        console().print(line, style="yellow")
    print_left(console(), done.left)


def carry_out(recipe: Recipe, out: Path | None, *, force: bool, quiet: bool, as_json: bool) -> None:
    """Carry out a recipe and print its report."""
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.cli.tables import print_report
    from sigprune.experiment.runner import run

    folder = out or Path("runs") / f"{recipe.name}-{recipe.digest[:8]}"
    report = run(recipe, folder, force=force, progress=watch(quiet=quiet))
    if as_json:
        print_json({"folder": str(folder), **report.data})
    else:
        print_report(console(), report, folder)
