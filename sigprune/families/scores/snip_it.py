"""Elasticity |w ⊙ Σ ∂L/∂w| / |Σ L|: the relative change of the loss by a relative change of the entry."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sigprune.base import processes
from sigprune.base.errors import BadScores
from sigprune.base.tensors import Tensors
from sigprune.families.scores._shared import sensitivity, summed
from sigprune.values.batch import Batch
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
    leaves = problem.leaves()
    losses: list[Tensor] = []

    def loss(batch: Batch) -> Tensor:
        value = problem.loss(leaves, batch)
        losses.append(value.detach().double())
        return value

    with problem.view.probing():
        gradients = summed(problem, leaves, loss)
    whole = torch.stack(losses).sum()
    processes.average_([whole])
    total = float(whole.abs())
    if total == 0:
        raise BadScores(
            "score 'snip_it': expected a loss other than zero, to which its elasticities are relative; take "
            "the score 'snip' with the schedule 'halving'"
        )
    return {name: values.div_(total) for name, values in sensitivity(gradients, leaves).items()}
