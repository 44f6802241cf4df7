"""FORCE |θ ⊙ ∂L/∂θ at the masked network|: skeletonisation in rounds; removed entries may return."""

from __future__ import annotations

from typing import Literal

from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import mean_gradients, sensitivity, single
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "de Jorge et al. 2021, arXiv 2006.09081, equation 6 and Algorithm 1"
SCHEDULE = "exponential"
ROUNDS = 60
REMOVED: Literal["may return"] = "may return"


def score(problem: Problem) -> Tensors:
    """The values of the dense network times the gradient of the masked one; one pass per batch and round.

    An entry that was removed competes with what it would be worth if it came back alone. The first round is
    that of ``snip``. One copy of the prunable weights for the gradients and, from the second round on, one
    for the masked weights.
    """
    leaves = problem.leaves(single(problem.view))
    gradients, _ = mean_gradients(problem, leaves)
    return sensitivity(gradients, problem.view.params())
