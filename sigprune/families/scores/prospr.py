"""ProsPr |∂L(θ_N) / ∂m|: the loss after N steps of training, differentiated through the steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sigprune.base import distributed
from sigprune.base.errors import BadInput
from sigprune.base.registry import Count, Positive
from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import (
    Shares,
    cast,
    pop_gradients,
    sensitivity,
    single,
    twice_differentiable,
)
from sigprune.values.batch import Batch
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "Alizadeh et al. 2022, arXiv 2202.08132, equations 4 and 5"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"


def score(
    problem: Problem,
    *,
    steps: Count = 3,
    lr: Positive = 0.5,
    momentum: float = 0.9,
    first_order: bool = False,
) -> Tensors:
    """|θ ⊙ dL(θ_N)/dθ_0|, θ_0 = m ⊙ θ: all parameters take N steps of SGD with momentum, exactly.

    One batch per step, so that the steps depend on how the data are cut into batches; the loss is the mean
    over all examples of the batches that are left. Fewer than N + 1 batches are read again from the first.
    Removed entries stay zero through the steps.

    Cost: 2 N + 1 forward and about 5 N + 1 backward passes. Memory grows with N: the graph holds the
    activations of all N steps, those of their backward passes, and about four copies of the parameters per
    step, so that this is for small networks, batches and N. ``first_order`` takes dθ_N/dθ_0 for the identity:
    three copies of the parameters and the activations of one step. Networks in half precision are computed in
    float32.

    Args:
        problem: what is given.
        steps: N (the paper's 3).
        lr: learning rate of the steps (the paper's 0.5).
        momentum: of the steps (the paper's 0.9), in [0, 1).
        first_order: leave out the second derivatives.

    Raises:
        BadInput: a momentum outside its range, a network without second derivatives, or several processes.
    """
    if not 0 <= momentum < 1:
        raise BadInput(f"score 'prospr': expected 0 <= momentum < 1, got {momentum}")
    if distributed.count() > 1:
        raise BadInput("score 'prospr': its steps of training are those of one process; start it in one")
    view, dtype = problem.view, single(problem.view)
    leaves = problem.leaves(dtype)
    weights = {n: t.requires_grad_() for n, t in leaves.items() if t.is_floating_point()}
    shares = Shares()
    descent = _Descent(problem, lr, momentum, not first_order)
    with twice_differentiable(view):
        stream = _stream(problem, steps + 1)
        for batch in itertools.islice(stream, steps):
            weights = descent.step(weights, cast(batch, dtype))
        ends = {name: value.detach().requires_grad_() for name, value in weights.items()}
        for batch in stream:
            given = cast(batch, dtype)
            output = view.forward(ends, given)
            value = problem.objective(output, given)
            value = value * shares.add(problem.predictions(output, given))
            torch.autograd.backward(value, inputs=list(ends.values()))
        outer = {name: end.grad for name, end in ends.items() if end.grad is not None}
        if first_order:
            for name in problem.mask.keep:
                leaves[name].grad = outer.get(name)
        else:  # one product of the outer gradient with dθ_N/dθ_0
            # to all leaves: ``inputs`` would skip the nodes that say they have no second derivative
            torch.autograd.backward([weights[name] for name in outer], list(outer.values()))
    return sensitivity(pop_gradients(problem, leaves, shares.scale()), leaves)


@dataclass(frozen=True, eq=False)
class _Descent:
    """SGD with momentum on the loss of the masked network; ``exact`` keeps the graph of every step."""

    problem: Problem
    lr: float
    momentum: float
    exact: bool
    velocity: Tensors = field(default_factory=dict)

    def step(self, weights: Tensors, batch: Batch) -> Tensors:
        """The weights after one step on one batch."""
        loss = self.problem.objective(self.problem.view.forward(weights, batch), batch)
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            loss, list(weights.values()), create_graph=self.exact, allow_unused=True
        )
        stepped = dict(weights)
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is None:
                continue
            keep = self.problem.mask.keep.get(name)  # a removed entry is zero and stays so
            slope = gradient if keep is None else gradient.masked_fill(~keep.to(gradient.device), 0.0)
            before = self.velocity.get(name)
            self.velocity[name] = slope if before is None else slope + self.momentum * before
            stepped[name] = value - self.lr * self.velocity[name]
        if self.exact:
            return stepped
        return {name: value.detach().requires_grad_() for name, value in stepped.items()}


def _stream(problem: Problem, least: int) -> Iterator[Batch]:
    """All batches; where these are fewer than ``least``, the first ones again."""
    count = 0
    for batch in problem.batches():
        yield batch
        count += 1
    while count < least:
        for batch in itertools.islice(problem.batches(), least - count):
            yield batch
            count += 1
