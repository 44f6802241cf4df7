"""Gradient signal preservation θ ⊙ (H g): removing an entry of high score would lower ‖g‖², so it is kept."""

from __future__ import annotations

from typing import Literal

import torch

from sigprune.base.registry import Positive
from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import (
    Shares,
    cast,
    mean_gradients,
    pop_gradients,
    single,
    twice_differentiable,
)
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "Wang et al. 2020, arXiv 2002.07376, equation 8"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem, *, temperature: Positive = 200.0) -> Tensors:
    """H and g are those of the mean loss of all examples, by two passes over the data; signed.

    The paper removes the entries with the largest -θ ⊙ (H g), which are those of the lowest score here. H g
    is the gradient of gᵀ∇L with g held fixed, so that means over batches are exact and memory is that of one
    batch; g counts the kept prunable entries only. Cost per batch: one forward and one backward pass, then
    one forward and about three backward passes. Memory: the gradient, its product with H, and the graph of
    one batch's gradient, about twice that of a training step. Networks in half precision are computed in
    float32. Batches that are drawn anew each time they are read serve as well as their two draws agree.

    Args:
        problem: what is given.
        temperature: divides the output of the network before the objective (the paper's 200).

    Raises:
        BadInput: the network uses an operation without second derivatives.
    """
    view, dtype = problem.view, single(problem.view)
    leaves = problem.leaves(dtype)
    wanted = [leaves[name] for name in problem.mask.keep]

    shares = Shares()
    with twice_differentiable(view):
        flow, _ = mean_gradients(problem, leaves, temperature=temperature)
        for name, keep in problem.mask.keep.items():
            flow[name].masked_fill_(~keep.to(flow[name].device), 0.0)
        for batch in problem.batches():
            given = cast(batch, dtype)
            output = view.forward(leaves, given)
            value = problem.objective(output / temperature, given)
            value = value * shares.add(problem.predictions(output, given))
            if not value.requires_grad:  # no prunable weight reaches it
                continue
            gradients = torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
            pairs = zip(gradients, flow.values(), strict=True)
            terms = [(g * along).sum() for g, along in pairs if g is not None and g.requires_grad]
            if terms:  # none: the loss is linear in the weights, and H is zero
                # not only to ``wanted``: that would skip the nodes that say they have no second derivative
                torch.autograd.backward(torch.stack(terms).sum())
    return {
        name: h.mul_(leaves[name].detach())
        for name, h in pop_gradients(problem, leaves, shares.scale()).items()
    }
