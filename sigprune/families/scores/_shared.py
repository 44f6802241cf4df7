"""Gradients of the mean objective, |weight · gradient|, and what second derivatives need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base import distributed
from sigprune.base.errors import BadInput, one_line
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch
from sigprune.values.operator import differentiable
from sigprune.values.problem import Problem
from sigprune.values.view import View

_HALF = frozenset({torch.bfloat16, torch.float16})


@dataclass(eq=False)
class Shares:
    """What each batch counts in a mean over all predictions, of all batches in all processes.

    Batches of one size count exactly 1 each until the end, so that their sum has no rounding of its own.

    Attributes:
        first: predictions of the first batch.
        total: predictions of all batches so far.
    """

    first: int = 0
    total: int = 0

    def add(self, predictions: int) -> float:
        """How many times as much as the first batch the next one counts."""
        self.first = self.first or predictions
        self.total += predictions
        return predictions / max(self.first, 1)

    def scale(self) -> float:
        """What makes the mean over all predictions, after the mean over processes, of the weighted sum."""
        return self.first * distributed.count() / max(distributed.total(self.total), 1)


def pop_gradients(problem: Problem, leaves: Tensors, scale: float = 1.0) -> Tensors:
    """The collected gradients, taken off the leaves and scaled, the mean over processes.

    Leaves without a gradient give zeros: processes that saw different parts of a network average the same
    tensors in the same order.
    """
    gradients: Tensors = {}
    for name in problem.mask.keep:
        leaf = leaves[name]
        gradient, leaf.grad = leaf.grad, None
        gradient = torch.zeros_like(leaf, requires_grad=False) if gradient is None else gradient
        gradients[name] = gradient if scale == 1 else gradient.mul_(scale)
    distributed.average_(gradients.values())
    return gradients


def sensitivity(gradients: Tensors, values: Tensors) -> Tensors:
    """|value ⊙ gradient|, written over the gradients (no copy)."""
    return {name: g.mul_(values[name].detach()).abs_() for name, g in gradients.items()}


def mean_gradients(problem: Problem, leaves: Tensors, *, temperature: float = 1.0) -> tuple[Tensors, Tensor]:
    """The gradients of the objective, and the objective: the mean over all predictions of all batches.

    How the data are cut into batches changes neither. One forward and one backward pass for each batch.

    Args:
        problem: what is given.
        leaves: every parameter; those that the mask names collect gradients.
        temperature: divides the output of the network before the objective.

    Returns:
        Name -> gradient, in the leaves' dtype; the objective, a scalar in float64.
    """
    shares, objective = Shares(), torch.zeros((), dtype=torch.float64)
    for batch in problem.batches():
        given = cast(batch, single(problem.view))

        def aim(output: Tensor, given: Batch = given) -> Tensor:
            value = problem.objective(output if temperature == 1 else output / temperature, given)
            return value * shares.add(problem.predictions(output, given))

        objective = objective + problem.view.backward_(leaves, given, aim).double().cpu()
    scale = shares.scale()
    objective = objective * scale
    distributed.average_([objective])
    return pop_gradients(problem, leaves, scale), objective


def single(view: View) -> torch.dtype | None:
    """float32 for a network in half precision: in it gradients underflow, and differences are rounding.

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
        with view.eval_mode(), differentiable():
            yield
    except RuntimeError as error:
        if "not implemented" in str(error) or "differentiate twice" in str(error):
            raise BadInput(
                f"{view.architecture} has no second derivatives ({one_line(error)}): expected a network that "
                "can be differentiated twice; take a first-order score (snip, force, synflow)"
            ) from error
        raise
