"""The same density in every weight."""

from __future__ import annotations

from sigprune.families.allocations._shared import share
from sigprune.values.ranking import Ranking

PAPER = "Zhu and Gupta 2017, arXiv 1710.01878"


def allocate(ranking: Ranking) -> dict[str, int]:
    """Counts in proportion to the sizes."""
    return share(ranking, {name: float(size) for name, size in ranking.sizes().items()})
