"""Half of the entries first; then the distance to the final sparsity is halved in every round."""

from __future__ import annotations

from sigprune.base.registry import Count
from sigprune.families.schedules._shared import expect_rounds

PAPER = "Verdenius et al. 2020, arXiv 2006.00896, section 4"


def kept(total: int, target: int, *, rounds: Count = 5) -> list[int]:
    """Sparsities K - (K - 1/2) / 2^i, i = 0 ... rounds - 2, then K itself; counts are rounded up.

    A target of half of the entries or more leaves nothing to approach and is met in one round. The authors'
    code, asked for five steps, prunes seven times (i = 0 ... 5, then K): ``rounds: 7``.

    Raises:
        BadInput: there is not one round.
    """
    expect_rounds(rounds)
    if 2 * target >= total:
        return [target]
    # kept = target + (total / 2 - target) / 2^i
    more = total - 2 * target
    return [*(target - (-more // 2 ** (i + 1)) for i in range(rounds - 1)), target]
