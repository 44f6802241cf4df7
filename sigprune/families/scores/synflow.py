"""Synaptic flow |θ ⊙ ∂R/∂θ|: R sums the outputs of the network with absolute weights on an all-ones input."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import backward, sensitivity
from sigprune.values.batch import Batch
from sigprune.values.problem import Problem

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Tanaka et al. 2020, arXiv 2006.05467, equation 2"
SCHEDULE = "exponential"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem) -> Tensors:
    """One forward and one backward pass with the view's example, in float64 (deep networks overflow float32).

    Needs about three float64 copies of the weights. Token models get an all-ones embedding.
    """
    view = problem.view
    leaves = {name: tensor.detach().abs() for name, tensor in problem.leaves(torch.float64).items()}
    for name in problem.mask.keep:
        leaves[name].requires_grad_()
    batch = view.example  # one example
    if view.embed is not None:
        batch = view.embed(batch)
    ones = {
        k: torch.ones_like(v, dtype=torch.float64) if v.is_floating_point() else v
        for k, v in batch.inputs.items()
    }
    device = next(iter(leaves.values())).device
    flow: Batch = replace(batch, inputs=ones).to(device)
    with view.probing():
        backward(view.forward(leaves, flow).sum(), leaves, list(problem.mask.keep))
    return sensitivity(problem, leaves)
