"""Settings: the model and the data that a recipe names, opened and fitted to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sigprune.base.errors import BadInput
from sigprune.base.seeds import generator
from sigprune.effects.training import Split
from sigprune.families.datasets import Data, datasets
from sigprune.recipe import Recipe
from sigprune.values.operator import Operator, jacobian
from sigprune.values.view import View
from sigprune.verbs.fitting import fit_to_view
from sigprune.verbs.opening import class_args, describe, open_model


@dataclass(frozen=True, eq=False)
class Setting:
    """A view and the data that it will see; images are fitted to the model when they are asked for."""

    recipe: Recipe
    view: View
    data: Data

    def examples(self, purpose: str, count: int) -> Split:
        """A fixed random choice of training examples, one per purpose."""
        images, labels = self.data.train
        rows = torch.randperm(len(labels), generator=generator(self.recipe.seed, "examples", purpose))[:count]
        return fit_to_view(images[rows], self.view, self.recipe.data.size), labels[rows]

    def operator(self) -> Operator:
        """The Jacobian at the measured examples; batch statistics would couple them: fresh ones serve."""
        view = self.view.using("fresh") if self.view.batchnorm == "batch" else self.view
        return jacobian(view, self.examples("measure", self.recipe.measure.examples))

    def train(self) -> Split:
        """The whole train split."""
        images, labels = self.data.train
        return fit_to_view(images, self.view, self.recipe.data.size), labels

    def test(self) -> Split | None:
        """The whole test split, if there is one."""
        if self.data.test is None:
            return None
        images, labels = self.data.test
        return fit_to_view(images, self.view, self.recipe.data.size), labels


def open_setting(recipe: Recipe) -> Setting:
    """Data first: the model takes its number of classes from it, unless the recipe names one."""
    source, model, plan = recipe.data.source, recipe.model, recipe.prune
    data = datasets.choose(source).member.load(**source.options)
    args = class_args(model.ref, len(data.classes)) | dict(model.args)
    module = open_model(model.ref, pretrained=model.pretrained, args=args, seed=recipe.seed)
    view = describe(module.to(_device(recipe.device)), batchnorm=model.batchnorm)
    return Setting(recipe, view.select(include=plan.include, exclude=plan.exclude, biases=plan.biases), data)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
