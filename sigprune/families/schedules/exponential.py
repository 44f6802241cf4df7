"""The density falls by the same factor in every round: density^(t / rounds)."""

from __future__ import annotations

from sigprune.base.registry import Count
from sigprune.families.schedules._shared import expect_rounds

PAPER = "Tanaka et al. 2020, arXiv 2006.05467, Algorithm 1"


def kept(total: int, target: int, *, rounds: Count = 100) -> list[int]:
    """Counts round(total · (target / total)^(t / rounds)), t = 1 ... rounds; the last is ``target`` exactly.

    A target of zero counts as one entry until the last round.

    Raises:
        BadInput: there is not one round.
    """
    expect_rounds(rounds)
    density = max(target, 1) / total
    counts = [max(target, round(total * density ** (t / rounds))) for t in range(1, rounds + 1)]
    return [*counts[:-1], target]
