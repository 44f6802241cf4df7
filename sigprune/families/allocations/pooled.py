"""One ranking over the entries of all weights together (global top-k)."""

from __future__ import annotations

import torch

from sigprune.base.tensors import flatten
from sigprune.values.ranking import Ranking, pick, threshold

PAPER = "Lee et al. 2019, arXiv 1810.02340, Algorithm 1"


def allocate(ranking: Ranking) -> dict[str, int]:
    """Entries above the global threshold, plus a random choice among those equal to it. Linear time."""
    if ranking.budget == 0:
        return dict.fromkeys(ranking.scores, 0)
    limit, wanted = threshold(flatten(ranking.scores), ranking.budget)
    above = {name: int((score > limit).count_nonzero()) for name, score in ranking.scores.items()}
    tied = torch.tensor([int((score == limit).count_nonzero()) for score in ranking.scores.values()])
    chosen = pick(wanted, int(tied.sum()), ranking.generator)
    owner = torch.bucketize(chosen, tied.cumsum(0), right=True)
    extra = torch.bincount(owner, minlength=len(tied)).tolist()
    return {name: above[name] + more for name, more in zip(ranking.scores, extra, strict=True)}
