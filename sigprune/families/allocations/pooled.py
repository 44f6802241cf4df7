"""One ranking over the entries of all weights together (global top-k)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sigprune.base.registry import Share
from sigprune.base.tensors import Tensors
from sigprune.families.allocations._shared import floors
from sigprune.values.ranking import Ranking, pick, threshold

PAPER = "Lee et al. 2019, arXiv 1810.02340, Algorithm 1"


def allocate(ranking: Ranking, *, floor: Share = 0.0) -> dict[str, int]:
    """Entries above the global threshold, plus a random choice among those equal to it. Linear time.

    With a floor, each weight's own best are kept first, up to the floor, and all others then compete: weights
    that would fall below get the floor, until none does. No copy of the scores is made.

    Args:
        ranking: scores.
        floor: least density of every weight.

    Raises:
        BadInput: the sparsity does not leave the floor.
    """
    least = floors(ranking, floor)
    fixed: dict[str, int] = {}
    while True:
        open_scores = {name: score for name, score in ranking.scores.items() if name not in fixed}
        counts = _best(open_scores, ranking.budget - sum(fixed.values()), ranking)
        # whoever falls short now falls short of every higher threshold, too
        short = {name: least[name] for name, count in counts.items() if count < least[name]}
        fixed |= short
        if not short:
            everything: Mapping[str, int] = counts | fixed
            return {name: everything[name] for name in ranking.scores}


def _best(scores: Tensors, budget: int, ranking: Ranking) -> dict[str, int]:
    if budget == 0:
        return dict.fromkeys(scores, 0)
    limit, above, equal = threshold(list(scores.values()), budget, [ranking.left.get(n) for n in scores])
    ranking.limits[budget] = limit
    tied = torch.tensor(equal)
    chosen = pick(budget - sum(above), sum(equal), ranking.generator)
    owner = torch.bucketize(chosen, tied.cumsum(0), right=True)
    extra = torch.bincount(owner, minlength=len(tied)).tolist()
    return {name: sum(counts) for name, *counts in zip(scores, above, extra, strict=True)}
