"""Erdős-Rényi-Kernel: densities in proportion to (sum of block dimensions) / (their product)."""

from __future__ import annotations

import math

from sigprune.families.allocations._shared import share
from sigprune.values.ranking import Ranking

PAPER = "Evci et al. 2020, arXiv 1911.11134, section 3"


def allocate(ranking: Ranking) -> dict[str, int]:
    """Counts in proportion to size · sum(dimensions) / prod(dimensions), at most all of a weight."""
    sizes = ranking.sizes()
    return share(ranking, {n: sizes[n] * sum(b) / math.prod(b) for n, b in ranking.blocks.items()})
