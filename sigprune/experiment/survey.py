"""Surveys: what a model is made of, and its singular values under several initialisers. Nothing is pruned."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import cast

import torch
from torch import nn
from torch.nn.functional import interpolate

from sigprune.base.errors import DataError, one_line
from sigprune.base.progress import Progress
from sigprune.base.registry import JsonValue
from sigprune.experiment.setup import open_setting, policy_of, selected
from sigprune.init.policy import treatments
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, library_of, open_model, parse_ref
from sigprune.propagation.calibration import calibrate_
from sigprune.propagation.layerwise import OperatorOf, layer_isometry
from sigprune.recipe.consent import expect_consent
from sigprune.recipe.recipe import Recipe
from sigprune.report import serialize
from sigprune.report.run_record import Measurement
from sigprune.report.schema import Moment
from sigprune.values.batch import Batch
from sigprune.values.view import View
from sigprune.values.weight import Weight

_LARGE = 2 * 10**9
"""Parameters above which fresh weights (8 GB in float32) are not drawn just to be looked at."""


def anatomy(recipe: Recipe, progress: Progress) -> dict[str, JsonValue]:
    """Every weight of the recipe's model, what is skipped and why, and the gates.

    Args:
        recipe: model and seed are read.
        progress: told that the model is being opened.

    Returns:
        ``ref``, ``library``, ``architecture``, ``parameters``, ``sketched`` (nothing has values: it is too
        large to be made for a look, and gates are known by structure only); ``weights`` (one row each, in
        order of definition); ``skipped`` (reason -> names); ``gates`` (name, value, closed).
    """
    model = recipe.model
    expect_consent(recipe)
    with progress.step("open"):
        module = _to_look_at(recipe)
    view = selected(describe(module), recipe)
    total = sum(p.numel() for p in module.parameters())
    skipped: defaultdict[str, list[JsonValue]] = defaultdict(list)
    for name, reason in view.reasons().items():
        skipped[reason].append(name)
    return {
        "ref": model.ref,
        "library": view.library,
        "architecture": view.architecture,
        "parameters": total,
        "sketched": any(p.is_meta for p in module.parameters()),
        "prunable": sum(math.prod(shape) for shape in view.prunable_shapes().values()),
        "weights": [_weight(view, weight, total) for weight in view.weights],
        "skipped": dict(skipped),
        "gates": [{"name": g.name, "value": g.value, "closed": g.closed} for g in view.gates],
    }


def _to_look_at(recipe: Recipe) -> nn.Module:
    """The model of the recipe; on the meta device if fresh weights would take more than 8 GB."""
    model = recipe.model
    if not model.pretrained and library_of(parse_ref(model.ref)) != "torch":
        with torch.device("meta"):
            sketch = open_model(model.ref, args=model.args, seed=recipe.seed)
        if sum(p.numel() for p in sketch.parameters()) > _LARGE:
            return sketch
    return open_model(model.ref, pretrained=model.pretrained, args=model.args, seed=recipe.seed)


def spectra_under(variants: Mapping[str, Recipe], progress: Progress) -> list[Moment]:
    """Singular values of the Jacobian as opened, and after the initialisation of each recipe.

    Args:
        variants: title -> recipe; its model, data, init, measure and seed are read.
        progress: told about each measurement.

    Returns:
        One row per moment, as in the ``signal`` group of a report.
    """
    first = next(iter(variants.values()))
    return [
        _look("as opened", first, progress, initialise=False),
        *(_look(title, recipe, progress, initialise=True) for title, recipe in variants.items()),
    ]


def _look(title: str, recipe: Recipe, progress: Progress, *, initialise: bool) -> Moment:
    init, seed = recipe.init, recipe.seed
    with progress.step("open"):
        setting = open_setting(recipe)
    if initialise:
        reinit_(setting.view, init.method, seed=seed, gates=init.gates, policy=policy_of(recipe))
        if init.calibrate is not None:
            with progress.step(f"calibrate {title}") as on_progress:
                examples, target = setting.measured(), init.calibrate
                calibrate_(setting.measured_view, examples, target=target, seed=seed, on_progress=on_progress)
    with progress.step(f"measure {title}") as on_progress:
        spectrum = setting.spectrum(on_progress)
        gains = setting.profile()
    return serialize.of_measurement(Measurement(title, spectrum, gains))


def layers_of(
    recipe: Recipe, progress: Progress, *, init: bool, operator: OperatorOf = "circular"
) -> dict[str, JsonValue]:
    """Singular values of every weight of the recipe's model, compared with the gain of its initialiser.

    Args:
        recipe: model, init, seed, ``data.size`` (of the images that convolutions see) and
            ``measure.method`` (for ``padded``) are read.
        progress: told about each weight.
        init: draw fresh values as the recipe says; else those of the opened model are compared with 1.
        operator: of convolutions, as in :func:`sigprune.layer_isometry`.

    Returns:
        ``ref``, ``library``, ``architecture``, ``values`` (where they are from), ``operator``; ``layers`` (a
        row each, in order of definition).

    Raises:
        DataError: the model does not take images of this size.
    """
    model, gains = recipe.model, {}
    expect_consent(recipe)
    with progress.step("open"):
        view = describe(
            open_model(model.ref, pretrained=model.pretrained, args=model.args, seed=recipe.seed),
            batchnorm=model.batchnorm,
        )
    if init:
        chosen = recipe.init.method, recipe.init.gates, policy_of(recipe)
        gains = {name: one.gain for one in treatments(view, *chosen) for name in one.names}
        reinit_(view, chosen[0], seed=recipe.seed, gates=chosen[1], policy=chosen[2])
    example = _sized(view, recipe.data.size)
    with progress.step("measure") as on_progress:
        rows = layer_isometry(
            view,
            example,
            gains=gains or 1.0,
            operator=operator,
            method=recipe.measure.method,
            seed=recipe.seed,
            on_progress=on_progress,
        )
    drawn = recipe.init.method.name if init and recipe.init.method else "as opened"
    return {
        "ref": model.ref,
        "library": view.library,
        "architecture": view.architecture,
        "values": drawn,
        "operator": operator,
        "layers": [_plain(row.to_dict()) for row in rows],
    }


def _sized(view: View, size: int | None) -> Batch:
    """The view's own example, as an image of another size if one is given.

    Raises:
        DataError: the model does not take it.
    """
    example = view.example
    images = {name: image for name, image in example.inputs.items() if image.dim() == 4}
    if size is None or not images:
        return example
    sized = {name: interpolate(image, (size, size), mode="bilinear") for name, image in images.items()}
    example = replace(example, inputs={**example.inputs, **sized})
    try:
        with torch.no_grad():
            view.using("fresh").forward({}, example)
    except Exception as error:  # whatever the model raises for a size that it cannot take
        raise DataError(
            f"{view.architecture} does not take images of {size} x {size}: {one_line(error)}; leave out the "
            "size, or set the model's own (model.args.img_size of timm, image_size of transformers)"
        ) from error
    return example


def _plain(fields: dict[str, object]) -> dict[str, JsonValue]:
    """The same, tuples as lists."""
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
    return cast("dict[str, JsonValue]", lists)


def _weight(view: View, weight: Weight, total: int) -> dict[str, JsonValue]:
    return {
        "name": weight.name,
        "role": weight.role,
        "stage": weight.stage,
        "shape": list(weight.shape),
        "layout": {"words": str(weight.layout), **_plain(asdict(weight.layout))},
        "blocks": weight.block_count,
        "parameters": weight.count,
        "share": weight.count / total,
        "prunable": weight.name in view.prunable,
        "standardised": weight.standardised is not None,
        "tied": list(weight.tied),
    }
