"""Independent uniform numbers: the baseline that every criterion has to beat."""

from __future__ import annotations

from typing import Literal

import torch

from sigprune.base.tensors import Tensors
from sigprune.values.problem import Problem

NEEDS: Literal["nothing"] = "nothing"
PAPER = "Su et al. 2020, arXiv 2009.11094 (sanity checks)"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"


def score(problem: Problem) -> Tensors:
    """Uniform draws from [0, 1) in float64; no forward pass."""
    return {
        name: torch.rand(keep.shape, generator=problem.generator, dtype=torch.float64)
        for name, keep in problem.mask.keep.items()
    }
