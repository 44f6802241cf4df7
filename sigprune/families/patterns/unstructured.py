"""Any entry may be kept: the highest scores are."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.values.ranking import pick, threshold

PAPER = "Lee et al. 2019, arXiv 1810.02340"


def select(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The ``count`` highest scores; linear time."""
    if count in {0, scores.numel()}:
        return torch.full(scores.shape, count > 0)
    flat = scores.reshape(-1)
    limit, wanted = threshold(flat, count)
    keep = (flat > limit).cpu()
    tied = (flat == limit).nonzero().squeeze(1).cpu()
    keep[tied[pick(wanted, len(tied), generator)]] = True
    return keep.reshape(scores.shape)
