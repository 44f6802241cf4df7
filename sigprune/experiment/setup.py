"""Settings: the model and the data that a recipe names, opened and fitted to each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import DataError, one_line
from sigprune.base.progress import ProgressCallback
from sigprune.base.rng import generator
from sigprune.checkpoint.read import load_mask
from sigprune.families.adapters import adapters
from sigprune.families.datasets import Data, datasets
from sigprune.init.policy import InitPolicy
from sigprune.models.opening import class_args, describe, open_model
from sigprune.propagation.gain_profile import profile
from sigprune.propagation.measurement import Effort, affordable, measure
from sigprune.pruning.budget import parameters_of, sparsity_for
from sigprune.pruning.choose import Method, dry_run
from sigprune.recipe.consent import expect_consent
from sigprune.recipe.recipe import Recipe
from sigprune.training.image_fitting import (
    Batches,
    Fitted,
    PixelRule,
    fit_images,
    input_shape,
    statistics,
    to_pixels,
    with_channels,
)
from sigprune.training.loop import Split, TrainConfig, device_of
from sigprune.values.batch import Batch
from sigprune.values.finding import Finding
from sigprune.values.gains import Profile
from sigprune.values.mask import Mask
from sigprune.values.operator import Operator, jacobian
from sigprune.values.preprocessing import ImageDefaults, Normalisation, Preprocessing, output_labels
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View

_PROBES = 2
"""Per example: eight examples, the default, make sixteen directions."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A view and the data that it will see; images are fitted to the model when they are asked for.

    Attributes:
        recipe: what is to be done.
        view: the model, on its device.
        data: to train and evaluate on.
        scored: to choose the mask with; the same, unless the recipe names others.
        images: what the model's library does with image files.
        mask: of the earlier run that the recipe names, if any.
        preprocessing: how an image file becomes an input; None: the data are no 8-bit images.
        outputs: of the model, at least as many as classes.
    """

    recipe: Recipe
    view: View
    data: Data
    scored: Data
    images: ImageDefaults
    mask: Mask | None = None
    preprocessing: Preprocessing | None = None
    outputs: int = 0

    def batches(self, purpose: str, count: int, size: int) -> Batches:
        """A fixed random choice of training examples, one per purpose."""
        data = self.scored if purpose == "prune" else self.data
        images, labels = data.train
        rows = torch.randperm(len(labels), generator=generator(self.recipe.seed, "examples", purpose))
        if purpose == "prune" and self.recipe.prune.balanced:
            rows = round_robin_by_class(rows, labels)
        rows = rows[:count]
        return Batches(self._fitted(data, images[rows]), labels[rows], size)

    def scoring(self) -> Batches:
        """The examples that the mask is chosen with."""
        plan = self.recipe.prune
        everything = len(self.scored.train[1])
        count = everything if plan.batches == "all" else int(plan.batches) * plan.batch_size
        return self.batches("prune", count, plan.batch_size)

    def examples(self, purpose: str, count: int) -> tuple[Tensor, Tensor]:
        """Such a choice as one batch."""
        return next(iter(self.batches(purpose, count, count)))

    @property
    def measured_view(self) -> View:
        """The view that is measured: batch statistics would couple the examples, fresh ones serve."""
        return self.view.using("fresh") if self.view.batchnorm == "batch" else self.view

    @cached_property
    def effort(self) -> Effort:
        """What the recipe's time bound leaves of the measurement that it asks for."""
        plan = self.recipe.measure
        wanted = self.examples("measure", plan.examples)
        return affordable(self.measured_view, wanted, plan.method, seconds=plan.max_seconds)

    def spectrum(self, on_progress: ProgressCallback) -> Spectrum:
        """The singular values of the Jacobian at the measured examples, within the bounds of the recipe."""
        spectrum = measure(
            self.operator(), self.effort.method, seed=self.recipe.seed, on_progress=on_progress
        )
        return replace(spectrum, method="; ".join(filter(None, (spectrum.method, self.effort.note))))

    def operator(self) -> Operator:
        """The Jacobian at the measured examples."""
        return jacobian(
            self.measured_view, self.measured(), max_memory_gib=self.recipe.measure.max_memory_gib
        )

    def profile(self) -> Profile:
        """The gains of the stages at the measured examples, from a few probes."""
        recipe = self.recipe
        gib = recipe.measure.max_memory_gib
        return profile(
            self.measured_view, self.measured(), probes=_PROBES, seed=recipe.seed, max_memory_gib=gib
        )

    def sparsity(self) -> float:
        """What the recipe says: itself, or as a number of parameters, or as a model that has so many."""
        plan, model = self.recipe.prune, self.recipe.model
        if plan.sparsity is not None:
            return plan.sparsity
        size = plan.parameters
        if isinstance(size, str):
            channels = {k: v for k, v in model.args.items() if k in {"in_chans", "num_channels"}}
            size = parameters_of(size, class_args(size, len(self.data.classes)) | channels)
        return sparsity_for(self.view, int(size or 0))

    def findings(self) -> list[Finding]:
        """A warning if the model has outputs that no class of the data stands behind."""
        classes = len(self.data.classes)
        if self.outputs == classes:
            return []
        remedy = (
            "outputs without a class are trained never to win; leave out the number of classes of the model"
        )
        return [Finding("outputs", "classes", self.outputs, classes, classes, remedy=remedy)]

    def measured(self) -> tuple[Tensor, Tensor]:
        """The examples that the Jacobian is measured at: the first of those that the recipe asks for."""
        return self.examples("measure", self.effort.examples)

    def train(self) -> Split:
        """The whole train split."""
        images, labels = self.data.train
        return self._fitted(self.data, images), labels

    def test(self) -> Split | None:
        """The whole test split, if there is one."""
        if self.data.test is None:
            return None
        images, labels = self.data.test
        return self._fitted(self.data, images), labels

    def plan(self) -> TrainConfig:
        """How to train."""
        recipe = self.recipe
        return TrainConfig(
            **recipe.train.model_dump(), batch_size=recipe.data.batch_size, device=recipe.device
        )

    def _fitted(self, data: Data, images: Tensor) -> Fitted:
        return Fitted(images, self.view, self.recipe.data.size, self.pixel_rule(data))

    def pixel_rule(self, data: Data) -> PixelRule | None:
        """How the images of a data set are fitted; None where they are no 8-bit images.

        Pretrained weights see what they were trained with, fresh ones the data's statistics.
        """
        if data.normalisation is None:
            return None
        given, channels = data.normalisation, input_shape(self.view, data.train[0], self.recipe.data.size)[0]
        wanted = self.images.normalisation or _statistics(data, given, channels)
        return PixelRule(given, wanted.repeated(channels), self.images.resizer)


def method_of(recipe: Recipe) -> Method:
    """How the recipe chooses a mask."""
    plan = recipe.prune
    return Method(plan.score, plan.allocation, plan.pattern, plan.schedule, plan.objective)


def round_robin_by_class(rows: Tensor, labels: Tensor) -> Tensor:
    """The rows in an order in which each class has its turn; within a class the order stays."""
    turn = torch.empty(len(rows), dtype=torch.long)
    classes = labels[rows]
    for number in classes.unique().tolist():
        own = classes == number
        turn[own] = torch.arange(int(own.count_nonzero()))
    return rows[turn.argsort(stable=True)]


def policy_of(recipe: Recipe) -> InitPolicy:
    """What the recipe says of parts that need not follow the initialiser of the rest."""
    init = recipe.init
    return InitPolicy(init.depthwise, init.embedding, init.head, init.norms)


def open_setting(recipe: Recipe) -> Setting:
    """Data first: the model takes its number of classes from it, unless the recipe names one.

    What would stop the run after hours is looked at here.

    Raises:
        NeedsConsent: the recipe's file asks for more than data, and the caller has not consented.
        BadInput: a device, precision, data set, model or argument that cannot be used.
        DataError: the model does not take the data.
    """
    expect_consent(recipe)
    source, model, plan = recipe.data.source, recipe.model, recipe.prune
    device = device_of(recipe.device, recipe.train.precision)
    data = datasets.choose(source).member.load(**source.options)
    args = class_args(model.ref, len(data.classes)) | dict(model.args)
    module = open_model(model.ref, pretrained=model.pretrained, args=args, seed=recipe.seed)
    view = describe(module.to(device), batchnorm=model.batchnorm)
    if view.library == "torch":
        view = replace(view, example=_example(view, data.train[0][:1], recipe.data.size))
    view = selected(view, recipe)
    scored = data if plan.data is None else datasets.choose(plan.data).member.load(**plan.data.options)
    mask = None if plan.mask is None else load_mask(plan.mask)
    setting = Setting(recipe, view, data, scored, image_defaults_of(view, recipe), mask)
    if setting.mask is None:
        dry_run(view, setting.sparsity(), method_of(recipe))
    outputs = _check(setting)
    preprocessing = _preprocessing(setting, outputs)
    return replace(setting, preprocessing=preprocessing, outputs=outputs)


def image_defaults_of(view: View, recipe: Recipe) -> ImageDefaults:
    """What the library of the model does with image files."""
    return adapters.get(view.library).image_defaults(view.module, pretrained=recipe.model.pretrained)


def _preprocessing(setting: Setting, outputs: int) -> Preprocessing | None:
    """How an image file becomes an input as the run made it; None where the data are no 8-bit images."""
    data, size = setting.data, setting.recipe.data.size
    rule = setting.pixel_rule(data)
    if rule is None:
        return None
    shape = input_shape(setting.view, data.train[0], size)[1]
    return Preprocessing(shape, rule.wanted, output_labels(data.classes, outputs))


def _statistics(data: Data, given: Normalisation, channels: int) -> Normalisation:
    """Those of the train split, one per channel; those of its grey where colour becomes grey."""
    images = data.train[0]
    if images.shape[1] in {1, channels}:
        return given
    return statistics(with_channels(to_pixels(images, given), channels))


def selected(view: View, recipe: Recipe) -> View:
    """The view with the prunable weights that the recipe names."""
    plan, heads = recipe.prune, recipe.prune.heads or "prune"
    return view.select(include=plan.include, exclude=plan.exclude, biases=plan.biases, heads=heads)


def _example(view: View, image: Tensor, size: int | None) -> Batch:
    """A model of one's own says nothing of its input but the channels: its size is that of the data."""
    (name, guess), *others = view.example.inputs.items()
    if others or guess.dim() != 4:
        return view.example
    height, width = (size, size) if size else image.shape[-2:]
    fitted = fit_images(image, guess.shape[1], (height, width))
    return Batch({name: fitted.to(guess.device, guess.dtype)})


def _check(setting: Setting) -> int:
    """One forward pass: the model takes the images, and has an output for every class; how many it has."""
    view, data = setting.view, setting.recipe.data
    inputs, _ = setting.examples("check", 2)
    try:
        with torch.no_grad():
            output = view.forward({}, view.read(inputs))
    except Exception as error:  # whatever the model raises for a size that it cannot take
        raise DataError(
            f"{view.architecture} does not take inputs of shape {tuple(inputs.shape[1:])}: "
            f"{one_line(error)}; set data.size, or the model's own size (model.args.img_size of timm, "
            "image_size of transformers)"
        ) from error
    classes = len(setting.data.classes)
    if classes < 2:
        raise DataError(
            f"the data have one class ({setting.data.classes[0]}): whatever the network says is right, and "
            "no score can rank anything; expected two or more"
        )
    if output.dim() != 2 or output.shape[1] < classes:
        raise DataError(
            f"the data have {classes} classes, but {view.architecture} gives an output of shape "
            f"{tuple(output.shape[1:])}; leave out the number of classes, or give the model a classifier"
        )
    if data.batch_size == 1 and any(isinstance(m, _BatchNorm) for m in view.module.modules()):
        raise DataError(
            "data.batch_size: BatchNorm cannot train on one example at a time; expected 2 or more"
        )
    return int(output.shape[1])
