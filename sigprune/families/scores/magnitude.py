"""The absolute value of each weight."""

from __future__ import annotations

from typing import Literal

from sigprune.base.tensors import Tensors
from sigprune.values.problem import Problem

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Han et al. 2015, arXiv 1506.02626"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem) -> Tensors:
    """|w|; no forward pass."""
    params = problem.view.params()
    return {name: params[name].abs() for name in problem.mask.keep}
