"""The same density in every weight."""

from __future__ import annotations

from sigprune.base.registry import Share
from sigprune.families.allocations._shared import floors, share
from sigprune.values.ranking import Ranking

PAPER = "Zhu and Gupta 2017, arXiv 1710.01878"


def allocate(ranking: Ranking, *, floor: Share = 0.0) -> dict[str, int]:
    """Counts in proportion to the sizes.

    Args:
        ranking: sizes; scores are not looked at.
        floor: least density of every weight (it binds only where earlier rounds left weights uneven).

    Raises:
        BadInput: the sparsity does not leave the floor.
    """
    desire = {name: float(size) for name, size in ranking.sizes().items()}
    return share(ranking, desire, floors(ranking, floor))
