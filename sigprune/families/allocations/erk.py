"""Erdős-Rényi-Kernel: densities in proportion to (sum of block dimensions) / (their product)."""

from __future__ import annotations

import math

from sigprune.base.family import Share
from sigprune.families.allocations._shared import floors, share
from sigprune.values.ranking import Ranking

PAPER = "Evci et al. 2020, arXiv 1911.11134, section 3"


def allocate(ranking: Ranking, *, floor: Share = 0.0) -> dict[str, int]:
    """Counts in proportion to size · sum(dimensions) / prod(dimensions), at most all of a weight.

    Args:
        ranking: sizes and blocks; scores are not looked at.
        floor: least density of every weight.

    Raises:
        BadInput: the sparsity does not leave the floor.
    """
    sizes, sites = ranking.sizes(), ranking.sites
    desire = {n: size * sum(sites[n].block) / math.prod(sites[n].block) for n, size in sizes.items()}
    return share(ranking, desire, floors(ranking, floor))
