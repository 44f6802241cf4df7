"""The absolute value of each weight."""

from __future__ import annotations

from typing import Literal

from sigprune.base.tensors import Tensors
from sigprune.values.problem import Problem

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Han et al. 2015, arXiv 1506.02626"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"
COMPARABLE: Literal["fresh network"] = "fresh network"


def score(problem: Problem) -> Tensors:
    """|w|; no forward pass.

    In fresh networks all magnitudes are ranked together by default; in trained ones those of each weight
    (allocation ``uniform``), as training gives layers scales that say nothing of their use.
    """
    params = problem.view.params()
    return {name: params[name].abs() for name in problem.mask.keep}
