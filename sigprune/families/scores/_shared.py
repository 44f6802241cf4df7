"""Gradients of the masked entries, |weight · gradient|, and what second derivatives need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sigprune.base import processes
from sigprune.base.errors import BadInput, one_line
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch
from sigprune.values.operator import differentiable
from sigprune.values.problem import Problem
from sigprune.values.view import View

_HALF = frozenset({torch.bfloat16, torch.float16})


def backward(value: Tensor, leaves: Tensors, names: list[str]) -> None:
    """Add the gradient of a scalar to ``.grad`` of the named leaves, in place (one backward pass)."""
    if value.requires_grad:  # else no leaf reaches it, and all gradients are zero
        torch.autograd.backward(value, inputs=[leaves[name] for name in names])


def taken(problem: Problem, leaves: Tensors) -> Tensors:
    """The collected gradients, taken off the leaves, the mean over processes; zeros without a gradient."""
    gradients: Tensors = {}
    for name in problem.mask.keep:
        leaf = leaves[name]
        gradient, leaf.grad = leaf.grad, None
        gradients[name] = torch.zeros_like(leaf, requires_grad=False) if gradient is None else gradient
    processes.average_(gradients.values())
    return gradients


def sensitivity(gradients: Tensors, values: Tensors) -> Tensors:
    """|value ⊙ gradient|, written over the gradients (no copy)."""
    return {name: g.mul_(values[name].detach()).abs_() for name, g in gradients.items()}


def summed(problem: Problem, leaves: Tensors, loss: Callable[[Batch], Tensor]) -> Tensors:
    """The gradient of ``loss(batch)`` summed over the batches: one forward and one backward pass for each.

    Gradients in half precision are summed in float32: eight bits of mantissa lose what a hundred batches add.
    """
    names = list(problem.mask.keep)
    # all of them at once: processes that saw different parts of a network average the same tensors in order
    totals = {n: torch.zeros_like(leaves[n], dtype=torch.float32) for n in names if leaves[n].dtype in _HALF}
    for batch in problem.batches():
        backward(loss(batch), leaves, names)
        for name in names:
            leaf = leaves[name]
            if leaf.dtype in _HALF and leaf.grad is not None:
                totals[name].add_(leaf.grad)
                leaf.grad = None
    processes.average_(totals.values())
    return taken(problem, leaves) | totals


def single(view: View) -> torch.dtype | None:
    """float32 for a network in half precision, whose differences and second derivatives are rounding errors.

    None leaves the dtype as it is.
    """
    halves = any(t.dtype in _HALF for t in view.params().values())
    return torch.float32 if halves else None


def cast(batch: Batch, dtype: torch.dtype | None) -> Batch:
    """The batch where it is, its floating-point inputs in the dtype."""
    return batch if dtype is None else batch.to(next(iter(batch.inputs.values())).device, dtype)


@contextmanager
def twice_differentiable(view: View) -> Iterator[None]:
    """Evaluation mode and kernels with second derivatives (fused attention has none).

    Raises:
        BadInput: the network uses an operation without second derivatives.
    """
    try:
        with view.probing(), differentiable():
            yield
    except RuntimeError as error:
        if "not implemented" in str(error) or "differentiate twice" in str(error):
            raise BadInput(
                f"{view.architecture} has no second derivatives ({one_line(error)}): expected a network that "
                "can be differentiated twice; take a first-order score (snip, force, synflow)"
            ) from error
        raise
