"""Elasticity |w ⊙ ∂L/∂w| / |L|: the relative change of the loss by a relative change of the entry."""

from __future__ import annotations

from typing import Literal

from sigprune.base.errors import BadScores
from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import mean_gradients, sensitivity, single
from sigprune.values.problem import Problem

NEEDS: Literal["objective"] = "objective"
PAPER = "Verdenius et al. 2020, arXiv 2006.00896, equation 4"
SCHEDULE = "halving"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem) -> Tensors:
    """One forward and one backward pass per batch given; one extra copy of the prunable weights.

    Within a round the loss is one number for all entries, so that masks are those of ``snip`` with the same
    schedule: what SNIP-it adds is the schedule ``halving``. Scores of different rounds and networks compare.

    Raises:
        BadScores: the loss is zero, so that nothing is relative to it.
    """
    leaves = problem.leaves(single(problem.view))
    gradients, objective = mean_gradients(problem, leaves)
    size = float(objective.abs())
    if size == 0:
        raise BadScores(
            "score 'snip_it': expected a loss other than zero, to which its elasticities are relative; take "
            "the score 'snip' with the schedule 'halving'"
        )
    return {name: values.div_(size) for name, values in sensitivity(gradients, leaves).items()}
