"""Fast at first, ever slower: what is still to be removed falls with the cube of the time that is left."""

from __future__ import annotations

from sigprune.base.registry import Count
from sigprune.families.schedules._shared import expect_rounds

PAPER = "Zhu and Gupta 2017, arXiv 1710.01878, equation 1"


def kept(total: int, target: int, *, rounds: Count = 100) -> list[int]:
    """Counts target + (total - target) · (1 - t / rounds)³, t = 1 ... rounds, rounded down.

    Raises:
        BadInput: there is not one round.
    """
    expect_rounds(rounds)
    # in integers: the last count is the target, and no count rises
    return [target + (total - target) * (rounds - t) ** 3 // rounds**3 for t in range(1, rounds + 1)]
