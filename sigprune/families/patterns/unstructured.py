"""Any entry may be kept: the highest scores are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sigprune.base.tensors import tally
from sigprune.families.patterns import Allocate
from sigprune.values.ranking import Ranking, pick, threshold

PAPER = "Lee et al. 2019, arXiv 1810.02340"
COUNTS: Literal["exact"] = "exact"


def select(ranking: Ranking, allocate: Allocate) -> dict[str, Tensor]:
    """The highest scores of each weight; linear time, memory of the masks."""
    counts = allocate(ranking)
    common = ranking.limits.get(ranking.budget)
    return {
        name: _best(ranking.scores.pop(name), ranking.left.get(name), count, ranking.ties(name), common)
        for name, count in counts.items()
    }


def _best(
    scores: Tensor, left: Tensor | None, count: int, generator: torch.Generator, common: Tensor | None
) -> Tensor:
    """``common`` is the threshold of all weights together, if it was looked for: mostly that of each."""
    if count in {0, scores.numel()}:
        return torch.full(scores.shape, count > 0)
    if common is not None:
        keep = _left(scores >= common, left)
        if tally(keep) == count:
            return keep
    limit, (above,), (tied,) = threshold([scores], count, [left])
    keep = _left(scores > limit, left)
    places = _left(scores == limit, left).reshape(-1).nonzero().squeeze(1)
    keep.view(-1)[places[pick(count - above, tied, generator)]] = True
    return keep


def _left(flags: Tensor, left: Tensor | None) -> Tensor:
    """Those of them, on the CPU, whose entries were not removed earlier."""
    flags = flags.cpu().contiguous()
    return flags if left is None else flags.logical_and_(left)
