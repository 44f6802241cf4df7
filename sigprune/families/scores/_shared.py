"""Gradients of the masked entries, and |weight · gradient|."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.tensors import Tensors
from sigprune.values.problem import Problem


def backward(value: Tensor, leaves: Tensors, names: list[str]) -> None:
    """Add the gradient of a scalar to ``.grad`` of the named leaves, in place (one backward pass)."""
    torch.autograd.backward(value, inputs=[leaves[name] for name in names])


def sensitivity(problem: Problem, leaves: Tensors) -> Tensors:
    """|weight ⊙ collected gradient|, written over the gradients (no copy); zero without a gradient."""
    scores: Tensors = {}
    for name in problem.mask.keep:
        leaf = leaves[name]
        gradient, leaf.grad = leaf.grad, None
        if gradient is None:
            scores[name] = torch.zeros_like(leaf, requires_grad=False)
        else:
            scores[name] = gradient.mul_(leaf.detach()).abs_()
    return scores
