"""NTK-SAP |∂/∂m ‖f(Z; θ⊙m) - f(Z; (θ+δ)⊙m)‖²|: what the spectrum of the tangent kernel owes to an entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import Count, Positive
from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import cast, single
from sigprune.values.batch import Batch
from sigprune.values.problem import Problem

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Wang et al. 2023, arXiv 2304.02840, equation 8 and Algorithm 1"
SCHEDULE = "exponential"
ROUNDS = 20
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem, *, epsilon: Positive = 0.01, batches: Count = 1, examples: Count = 32) -> Tensors:
    """Gaussian noise Z instead of data: two forward and two backward passes per batch of noise.

    Z has unit variance in the shape of the view's example; token models get it as their embeddings. δ is
    independent of the size of the weights, as in the paper. Each batch and each round has its own Z and δ;
    derivatives are summed over the batches before the absolute value. The paper also draws fresh weights for
    each batch, for a mask that no initialisation owns; here θ are the weights that will be trained, so that
    the mask is theirs and pretrained weights can be scored. Memory: about four copies of the prunable weights
    and two graphs of a batch. Networks in half precision are computed in float32.

    Args:
        problem: what is given.
        epsilon: standard deviation of the entries of δ (the paper's 0.01).
        batches: batches of noise.
        examples: noise examples per batch; an example that is packed (first axes other than 1) stays alone.

    Raises:
        BadInput: the network takes integers only, and has no entry for embeddings.
    """
    view, dtype, names = problem.view, single(problem.view), list(problem.mask.keep)
    leaves = problem.leaves(dtype)
    totals = {name: torch.zeros_like(leaves[name], requires_grad=False) for name in names}
    with view.eval_mode():
        for _ in range(batches):
            moved = leaves | {name: _moved(problem, leaves[name], name, epsilon) for name in names}
            noise = cast(_noise(problem, leaves, examples), dtype)
            gap = view.forward(leaves, noise) - view.forward(moved, noise)
            both = [params[name] for params in (leaves, moved) for name in names]
            if not gap.requires_grad:  # no prunable weight reaches the output
                continue
            gradients = torch.autograd.grad(gap.square().sum(), both, allow_unused=True)
            # the mask multiplies both: ∂/∂m = θ ⊙ ∂/∂(θ⊙m) + (θ+δ) ⊙ ∂/∂((θ+δ)⊙m), at m = 1 of what is kept
            for name, value, gradient in zip(names * 2, both, gradients, strict=True):
                if gradient is not None:
                    totals[name].addcmul_(value.detach(), gradient)
    return {name: total.abs_() for name, total in totals.items()}


def _moved(problem: Problem, leaf: Tensor, name: str, epsilon: float) -> Tensor:
    """(θ+δ) ⊙ m as a leaf."""
    step = torch.randn(leaf.shape, generator=problem.generator).mul_(epsilon)
    step.masked_fill_(~problem.mask.keep[name], 0.0)
    return step.to(leaf.device, leaf.dtype).add_(leaf.detach()).requires_grad_()


def _noise(problem: Problem, leaves: Tensors, examples: int) -> Batch:
    view = problem.view
    with torch.no_grad():
        example, places = view.embedded(leaves, view.example), view.places(view.example)
    main = next((name for name, value in example.inputs.items() if value.is_floating_point()), None)
    if main is None:
        raise BadInput(
            f"score 'ntk_sap': expected a network with a continuous input, got {view.architecture}, which "
            f"takes integers ({', '.join(example.inputs)}) and has no entry for embeddings; take 'synflow'"
        )
    count = examples if all(len(value) == 1 for value in example.inputs.values()) else 1
    inputs = {k: v.repeat(count, *[1] * (v.dim() - 1)) for k, v in example.inputs.items()}
    draws = torch.randn(inputs[main].shape, generator=problem.generator)
    draws = draws.to(inputs[main].device, inputs[main].dtype)
    if places is not None and main not in view.example.inputs:  # models look for the rows of these ids
        draws = torch.where(places.repeat(count, 1, 1), inputs[main], draws)
    return replace(example, inputs={**inputs, main: draws})
