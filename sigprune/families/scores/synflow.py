"""Synaptic flow |θ ⊙ ∂R/∂θ|: R sums the outputs of the network with absolute weights on an all-ones input."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import BadInput
from sigprune.base.tensors import Tensors
from sigprune.families.scores._flow import Linearised
from sigprune.families.scores._shared import pop_gradients, sensitivity
from sigprune.values.batch import Batch
from sigprune.values.problem import Problem
from sigprune.values.view import View

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Tanaka et al. 2020, arXiv 2006.05467, equation 2"
SCHEDULE = "exponential"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem, *, damping: float = 0.0) -> Tensors:
    """One forward and one backward pass with the view's example, in float64 (deep networks overflow float32).

    Needs about three float64 copies of the weights. Token models get an all-ones embedding, except at the
    places of images and sounds, which the rows of their towers take. Bounds of activations (ReLU6) and means
    that layer and group norms subtract are left out: the theory of the flow has neither. BatchNorm with
    stored statistics is the scale |γ|/σ and the shift |β| + |γμ|/σ: like all else, the mean counts as
    absolute (the authors' code subtracts |μ|, which can stop the flow). Statistics of an all-ones batch say
    nothing: where the view asks for those of the batch, fresh ones serve.

    Args:
        problem: what is given.
        damping: first divide each weight by this power, 0 to 1, of the mean sum of a row of its absolute
            values. In a chain of layers without biases that multiplies all scores by one number; beside a
            shortcut a branch weighs less, and with 1 some branches vanish. For networks whose flow overflows
            float64, or float32 where they compute in it (attention squares and cubes the flow and its
            gradient): with 0.5 that of levit and efficientvit is finite.

    Raises:
        BadInput: a damping outside its range.
    """
    if not 0 <= damping <= 1:
        raise BadInput(f"score 'synflow': expected 0 <= damping <= 1, got {damping}")
    view = problem.view.using("fresh") if problem.view.batchnorm == "batch" else problem.view
    sizes = problem.workspace.masked(problem.mask, lambda: _absolute(problem, damping))
    leaves = {name: value.detach() for name, value in sizes.items()}
    for name in problem.mask.keep:
        leaves[name].requires_grad_()
    with Linearised():
        view.backward_(leaves | _shifts(view), _ones(view, sizes), torch.sum)
    return sensitivity(pop_gradients(problem, leaves), leaves)


def remedy(*, damping: float = 0.0) -> str:
    """What to do where the flow overflows."""
    if damping == 1:
        return "the flow or its gradients overflow float64: lower the gain of the init"
    return f"the flow or its gradients overflow float64: raise the option damping, now {damping:g}"


def _absolute(problem: Problem, damping: float) -> Tensors:
    """Every parameter as an absolute value in float64, damped; removed entries zero."""
    own = problem.view.params()
    sizes = {
        name: value.detach().abs_() if value.dtype is not own[name].dtype else value.detach().abs()
        for name, value in problem.leaves(torch.float64).items()
    }
    if damping > 0:
        for name, total in _row_sums(problem.view).items():
            sizes[name] /= total**damping
    return sizes


def _ones(view: View, sizes: Tensors) -> Batch:
    """The view's example with ones for what is continuous; places in a text stay as they are."""
    with torch.no_grad():
        batch, places = view.embedded(sizes, view.example), view.places(view.example)
    inputs = dict(batch.inputs)
    for name, value in inputs.items():
        if value.is_floating_point():
            ones = torch.ones_like(value, dtype=torch.float64)
            text = None if name in view.example.inputs else places
            inputs[name] = ones if text is None else torch.where(text, value, ones)
    return replace(batch, inputs=inputs).to(next(view.module.parameters()).device)


def _shifts(view: View) -> Tensors:
    """Stand-ins for the stored means, so that what BatchNorm subtracts is added."""
    if view.batchnorm == "fresh":
        return {}
    means = {
        f"{path}.running_mean" if path else "running_mean": module.running_mean
        for path, module in view.module.named_modules()
        if isinstance(module, _BatchNorm)
    }
    return {name: -mean.detach().abs().double() for name, mean in means.items() if mean is not None}


def _row_sums(view: View) -> dict[str, float]:
    """Weight -> mean over the rows of its blocks of the sum of absolute values; look-ups sum nothing."""
    params, found = view.params(), {}
    for weight in view.weights:
        if weight.role != "embedding":
            rows = sum(len(block) for block in weight.layout.blocks(params[weight.name]))
            found[weight.name] = float(params[weight.name].abs().sum(dtype=torch.float64)) / rows
    return {name: total for name, total in found.items() if total > 0}
