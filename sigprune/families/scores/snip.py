"""Connection sensitivity |w ⊙ ∂L/∂w|, L the mean over all examples, whatever batches they come in."""

from __future__ import annotations

from typing import Literal

from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import mean_gradients, sensitivity, single
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "Lee et al. 2019, arXiv 1810.02340, equation 6; Lee et al. 2020, arXiv 1906.06307, equation 2"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem) -> Tensors:
    """One forward and one backward pass per batch given; one extra copy of the prunable weights.

    From the second round on the masked weights are one more copy. The papers divide by the sum of all scores,
    which changes no ranking and is left out. With the schedule ``exponential`` this is Iterative SNIP of
    de Jorge et al. 2021 (arXiv 2006.09081): the sensitivities of what is left, round after round.
    """
    leaves = problem.leaves(single(problem.view))
    gradients, _ = mean_gradients(problem, leaves)
    return sensitivity(gradients, leaves)
