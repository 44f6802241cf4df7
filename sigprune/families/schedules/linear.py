"""The same number of entries is removed in every round."""

from __future__ import annotations

from sigprune.base.registry import Count
from sigprune.families.schedules._shared import expect_rounds

PAPER = "de Jorge et al. 2021, arXiv 2006.09081, section 4.3"


def kept(total: int, target: int, *, rounds: Count = 100) -> list[int]:
    """Counts total - (total - target) · t / rounds, t = 1 ... rounds, rounded up.

    Raises:
        BadInput: there is not one round.
    """
    expect_rounds(rounds)
    return [total - (total - target) * t // rounds for t in range(1, rounds + 1)]
