"""Connection sensitivity |w ⊙ Σ ∂L/∂w|, gradients summed over all batches before the absolute value."""

from __future__ import annotations

from typing import Literal

from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import backward, sensitivity
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "Lee et al. 2019, arXiv 1810.02340, equation 6; Lee et al. 2020, arXiv 1906.06307, equation 2"
SCHEDULE = "oneshot"


def score(problem: Problem) -> Tensors:
    """One forward and one backward pass per batch given; one extra copy of the prunable weights.

    The papers divide by the sum of all scores, which changes no ranking and is left out.
    """
    leaves = problem.leaves()
    names = list(problem.mask.keep)
    with problem.view.probing():
        for batch in problem.batches():
            backward(problem.objective(problem.view.forward(leaves, batch), batch), leaves, names)
    return sensitivity(problem, leaves)
