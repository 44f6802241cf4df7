"""Any entry may be kept: the highest scores are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sigprune.families.patterns import Allocate
from sigprune.values.ranking import Ranking, pick, threshold

PAPER = "Lee et al. 2019, arXiv 1810.02340"
COUNTS: Literal["exact"] = "exact"


def select(ranking: Ranking, allocate: Allocate) -> dict[str, Tensor]:
    """The highest scores of each weight; linear time, memory of the masks."""
    counts = allocate(ranking)
    common = ranking.limits.get(ranking.budget)
    return {
        name: _best(ranking.scores[name], count, ranking.ties(name), common) for name, count in counts.items()
    }


def _best(scores: Tensor, count: int, generator: torch.Generator, common: Tensor | None) -> Tensor:
    """``common`` is the threshold of all weights together, if it was looked for: mostly that of each."""
    if count in {0, scores.numel()}:
        return torch.full(scores.shape, count > 0)
    flat = scores.reshape(-1)
    if common is not None:
        above = flat > common
        if int(above.count_nonzero()) == count:
            return above.cpu().reshape(scores.shape)
    limit, wanted = threshold([flat], count)
    keep = (flat > limit).cpu()
    tied = (flat == limit).nonzero().squeeze(1).cpu()
    keep[tied[pick(wanted, len(tied), generator)]] = True
    return keep.reshape(scores.shape)
