"""Erdős-Rényi-Kernel: densities in proportion to (sum of block dimensions) / (their product)."""

from __future__ import annotations

from sigprune.base.registry import Share
from sigprune.families.allocations._shared import floors, share
from sigprune.values.ranking import Ranking

PAPER = "Evci et al. 2020, arXiv 1911.11134, section 3"


def allocate(ranking: Ranking, *, floor: Share = 0.0) -> dict[str, int]:
    """Counts in proportion to size · sum(dimensions) / prod(dimensions) of the blocks, at most everything.

    As size is prod(dimensions), a block wants sum(dimensions): projections that share a matrix want together
    what they would want apart.

    Args:
        ranking: sizes and blocks; scores are not looked at.
        floor: least density of every weight.

    Raises:
        BadInput: the sparsity does not leave the floor.
    """
    desire = {name: float(sum(map(sum, site.blocks))) for name, site in ranking.sites.items()}
    return share(ranking, desire, floors(ranking, floor))
