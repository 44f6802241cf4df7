"""The command line: parse arguments, call one verb, print. Heavy libraries are imported inside commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from sigprune import __version__
from sigprune.base.errors import BadInput
from sigprune.base.escape import printable
from sigprune.cli.checks import check
from sigprune.cli.hub import pull, push
from sigprune.cli.options import (
    AsJson,
    Checkpoint,
    Force,
    Model,
    Out,
    Quiet,
    RecipeRef,
    Revision,
    Seed,
    Settings,
    Trust,
    Weights,
    compared,
    own_weights,
    recipe_for,
    setting,
)
from sigprune.cli.process import guarded
from sigprune.cli.pruning import carry_out, convert, prune

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""
    Prune architectures from timm and transformers, and see that signal still flows through them.

    Start with: sigprune run quickstart
    """,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Print the version, or the help if there is nothing to do."""
    del debug  # main() has read it, so that it may stand anywhere
    if version:
        typer.echo(f"sigprune {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    recipe: RecipeRef,
    *,
    settings: Settings = None,
    trust: Trust = False,
    out: Out = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Carry out a recipe: initialise, prune, restore isometry, train, save."""
    from sigprune.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, settings or ())
    carry_out(loaded.consented() if trust else loaded, out, force=force, quiet=quiet, as_json=as_json)


app.command()(prune)


@app.command()
def show(
    model: Model,
    *,
    pretrained: Weights = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What a model is made of: weights, what is skipped and why, gates."""
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.cli.tables import print_anatomy
    from sigprune.experiment.survey import anatomy

    facts = anatomy(recipe_for(model, own_weights(model, pretrained), 0, settings or ()), watch(quiet=quiet))
    print_json(facts) if as_json else print_anatomy(console(), facts)


@app.command()
def spectrum(
    model: Model,
    *,
    init: Annotated[
        str | None, typer.Option(help="initialisers to compare, with commas between (orthogonal,kaiming)")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="PATH=A,B,...", help="compare values of the recipe, e.g. init.gates=open,keep"),
    ] = None,
    data: Annotated[str, typer.Option(help="data set")] = "digits",
    size: Annotated[int | None, typer.Option(help="side of the images in pixels")] = None,
    examples: Annotated[int, typer.Option(help="examples to measure at")] = 8,
    max_memory: Annotated[
        float | None, typer.Option(help="GiB for graphs and batched products (0.5)")
    ] = None,
    pretrained: Weights = None,
    seed: Seed = 0,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="also draw figures into it")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Singular values of the input-output Jacobian, as opened and after each initialisation."""
    from sigprune.cli.console import console, print_json
    from sigprune.cli.progress import watch
    from sigprune.cli.tables import print_signal, print_weakest
    from sigprune.experiment.survey import spectra_under

    if init is not None and compare is not None:
        raise BadInput("--init A,B is --compare init.method=A,B: give one of them")
    path, values = compared(compare or f"init.method={init or 'orthogonal,kaiming'}")
    chosen = [f"data.source={data}", f"data.size={'null' if size is None else size}"]
    bound = [] if max_memory is None else [f"measure.max_memory_gib={max_memory}"]
    asked = [f"measure.examples={examples}", "measure.max_seconds=null"]
    given = [*chosen, *asked, *bound, *(settings or ())]
    variants = {
        f"after {value}" if path == "init.method" else f"{path}={value}": recipe_for(
            model, own_weights(model, pretrained), seed, [*given, f"{path}={value}"]
        )
        for value in values
    }
    moments = spectra_under(variants, watch(quiet=quiet))
    print_json(moments) if as_json else print_signal(console(), moments)
    if out is not None:
        from sigprune.report.figures import draw_signal

        names = draw_signal(moments, out)
        console(stderr=as_json).print(f"written to {out}: {', '.join(names)}")
    bounds = next(iter(variants.values())).bounds()
    print_weakest(console(stderr=True), moments, bounds["mean_jsv"])


@app.command()
def layers(
    model: Model,
    *,
    init: Annotated[str | None, typer.Option(help="initialiser (the values as opened)")] = None,
    size: Annotated[int | None, typer.Option(help="side of the images in pixels (the model's)")] = None,
    operator: Annotated[
        Literal["none", "circular", "padded"],
        typer.Option(help="convolutions as maps: not at all, in closed form, by measure.method"),
    ] = "circular",
    pretrained: Weights = None,
    seed: Seed = 0,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Singular values of every weight, and of every convolution as a map of images."""
    from sigprune.cli.console import console, print_json
    from sigprune.cli.layers import print_layers
    from sigprune.cli.progress import watch
    from sigprune.experiment.survey import layers_of

    chosen = {"init.method": init, "data.size": size}
    given = [f"{path}={setting(value)}" for path, value in chosen.items() if value is not None]
    recipe = recipe_for(model, own_weights(model, pretrained), seed, [*given, *(settings or ())])
    facts = layers_of(recipe, watch(quiet=quiet), init=init is not None, operator=operator)
    print_json(facts) if as_json else print_layers(console(), facts)


app.command()(check)
app.command()(convert)
app.command()(push)
app.command()(pull)


@app.command(name="list")
def list_members(
    family: Annotated[str | None, typer.Argument(help="a family, 'recipes' or 'models'")] = None,
    pattern: Annotated[str, typer.Argument(help="shell pattern of the names")] = "*",
    *,
    as_json: AsJson = False,
) -> None:
    """The families, or the members of one with their options and defaults."""
    from sigprune.cli.catalogue import list_rows
    from sigprune.cli.console import console, print_json, print_rows
    from sigprune.cli.progress import watch

    watching = watch(quiet=family != "models")  # the only list that has to import libraries
    with watching.step("ask timm and transformers"):
        rows = list_rows(family, pattern)
    print_json(rows) if as_json else print_rows(console(), rows, prose=True)


@app.command()
def inspect(
    ref: Checkpoint,
    *,
    revision: Revision = None,
    verify: Annotated[bool, typer.Option("--verify", help="check every bit, dense file included")] = False,
    as_json: AsJson = False,
) -> None:
    """What a sparse checkpoint says of itself; without --verify no tensor is read or fetched."""
    from sigprune.checkpoint.inspection import inspect as read
    from sigprune.cli.console import console, print_json
    from sigprune.cli.tables import print_checkpoint

    facts = read(ref, revision=revision, verify=verify)
    print_json(facts) if as_json else print_checkpoint(console(), facts)


@app.command()
def validate(
    recipe: RecipeRef,
    *,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, print it with every default resolved, and say what needs --trust; nothing is opened."""
    from sigprune.recipe.consent import permissions
    from sigprune.recipe.recipe import load_recipe

    checked = load_recipe(recipe, settings or ())
    needed = [str(one) for one in permissions(checked)]
    if as_json:
        facts = {"digest": checked.digest, "needs_trust": needed, "recipe": checked.resolved()}
        typer.echo(json.dumps(facts, indent=2))
    else:
        comments = "".join(f"# needs --trust: {one}\n" for one in needed)
        text = f"# digest {checked.digest}\n{comments}{checked.to_yaml()}"
        typer.echo(printable(text, "\n"), nl=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit codes as :func:`sigprune.cli.process.guarded` gives them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    return guarded(lambda: app(args=words, prog_name="sigprune", standalone_mode=False), given)
